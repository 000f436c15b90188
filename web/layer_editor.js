/** Offers ComfyUI's own layer editor, Create Layered Image (ComfyUI 0.31 and later), in the menu of Save Layers. */

import { app } from "../../scripts/app.js";

const SAVE = "LayerFusionSaveLayers";
const EDITOR = "ImageCompositor";
const LAYERS = "layers"; // the output here, the input there
const GAP = 60;
const CLASSIC = "It opens in Nodes 2.0 only: switch these on in ComfyUI's menu, under the logo. ";
const HINT = "Press Run, then Open Compositor. It mixes in linear light: with Match Layers on the graph, set its light to linear.";

/** Goes to the editor's node behind a node, which is added if there is none. */
function edit(node) {
  const slot = node.findOutputSlot(LAYERS);
  let editor = node.getOutputNodes(slot)?.find(({ type }) => type === EDITOR);
  if (!editor) {
    node.graph.beforeChange(); // one step of undo
    editor = LiteGraph.createNode(EDITOR);
    editor.pos = [node.pos[0] + node.size[0] + GAP, node.pos[1]];
    node.graph.add(editor);
    node.connect(slot, editor, LAYERS);
    node.graph.afterChange();
  }
  app.canvas.selectNode(editor);
  app.canvas.centerOnNode(editor);
  const detail = (LiteGraph.vueNodesMode ? "" : CLASSIC) + HINT;
  app.extensionManager.toast.add({ severity: "info", summary: "Create Layered Image", detail, life: 15000 });
}

app.registerExtension({
  name: "LayerFusion.LayerEditor",

  getNodeMenuItems(node) {
    if (node.constructor.comfyClass !== SAVE || !LiteGraph.registered_node_types[EDITOR]) return [];
    return [{ content: "Edit the layers (Create Layered Image)", callback: () => edit(node) }];
  },
});
