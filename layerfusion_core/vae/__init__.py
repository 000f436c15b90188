"""The transparent VAE in pure torch: network, decoding, tiling, encoding."""
