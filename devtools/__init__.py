"""What dev.py is made of. Never imported by the node pack and left out of its published archive."""
