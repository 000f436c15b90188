/** Puts the layer viewer on the Save Layers node. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { ViewerElement } from "./viewer_element.mjs";
import { outputKey, viewPath } from "./viewer_model.mjs";

const NODE = "LayerFusionSaveLayers";
const SIZE = { minHeight: 340, minWidth: 260 };
const viewers = new Map(); // node -> its viewer

/** Gives the canvas what is meant for it: wheel and middle button go on zooming and panning over the viewer. */
function passThrough(element) {
  const pass = (kind, handler, meant) => element.addEventListener(kind, (event) => {
    if (!meant(event)) return;
    event.preventDefault();
    event.stopPropagation();
    app.canvas[handler](event);
  }, { passive: false });
  pass("wheel", "processMouseWheel", () => true);
  pass("pointerdown", "processMouseDown", ({ button }) => button === 1);
  pass("pointermove", "processMouseMove", ({ buttons }) => buttons & 4);
  pass("pointerup", "processMouseUp", ({ button }) => button === 1);
}

function showOutput(node, outputs) {
  const sets = outputs?.[outputKey(node)]?.layerfusion_layers;
  if (sets) viewers.get(node)?.show(sets);
}

const href = new URL("viewer.css", import.meta.url).href;
document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href }));

app.registerExtension({
  name: "LayerFusion.Viewer",

  nodeCreated(node) {
    if (node.constructor.comfyClass !== NODE) return;
    const viewer = new ViewerElement((file) => api.apiURL(viewPath(file)));
    passThrough(viewer.element);
    const options = { serialize: false, hideOnZoom: false };
    const widget = node.addDOMWidget("layers_viewer", "layerfusion_viewer", viewer.element, options);
    widget.serialize = false; // nothing of it belongs into the saved graph
    widget.computeLayoutSize = () => SIZE;
    viewers.set(node, viewer);

    // The host's own preview of the same pictures is not drawn beside the viewer, in the canvas and in Nodes 2.0.
    node.onDrawBackground = () => {};
    node.hideOutputImages = true;

    const { onExecuted, onRemoved } = node;
    node.onExecuted = function (output) {
      onExecuted?.call(this, output);
      viewer.show(output?.layerfusion_layers);
    };
    node.onRemoved = function () {
      onRemoved?.call(this);
      viewers.delete(node);
    };
    node.setSize([380, node.computeSize()[1]]);
  },

  loadedGraphNode(node) {
    if (!viewers.has(node)) return;
    if (node.size[0] < SIZE.minWidth) node.setSize([SIZE.minWidth, node.size[1]]); // saved before there was a viewer
    showOutput(node, app.nodeOutputs);
  },

  /** Results that come back without a run: with the tab of another workflow, or out of the history. */
  onNodeOutputsUpdated(outputs) {
    for (const node of viewers.keys()) showOutput(node, outputs);
  },
});
