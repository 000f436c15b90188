/** Puts the layer viewer on the Save Layers node. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { ACTIONS } from "./viewer_actions.mjs";
import { CARRIED, ViewerElement } from "./viewer_element.mjs";
import { outputKey, outputOfHistory, VIEWED, viewPath } from "./viewer_model.mjs";

const PSD = "/layerfusion/psd";
const RUNS = 32; // of the server's history that are looked through for pictures
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

const address = (file) => api.apiURL(viewPath(file));
const fetchPsd = (set) => api.fetchApi(PSD, { method: "POST", body: JSON.stringify(set) });

/** Items of the node's menu, in the canvas and in Nodes 2.0. */
function menuItems(node) {
  const viewer = viewers.get(node);
  if (!viewer?.model.sets.length) return [];
  return Object.entries(ACTIONS).map(([name, { label, missing }]) => (
    { content: label, disabled: Boolean(missing(viewer.model)), callback: () => viewer.act(name) }));
}

/** A node that came without pictures (page loaded anew, put into a subgraph) shows those of its last run, if the server knows. */
async function recall(node) {
  const viewer = viewers.get(node);
  if (!viewer || viewer.model.sets.length) return;
  const answer = await api.fetchApi(`/history?max_items=${RUNS}`);
  if (!answer.ok) return;
  const alike = [...viewers.keys()].filter((other) => other.comfyClass === node.comfyClass);
  const { id } = app.rootGraph ?? app.graph;
  const output = outputOfHistory(await answer.json(), id, node.comfyClass, alike.length === 1 ? null : node.id);
  if (output && !viewer.model.sets.length) viewer.show(output.layerfusion_layers, output.layerfusion_notices);
}

/** A viewer's picture let fall on a node that takes files becomes one; older pages would open the workflow inside it instead. */
async function letFall(event) {
  const name = event.dataTransfer?.getData(CARRIED);
  if (!name) return;
  app.canvas.adjustMouseEvent(event);
  const node = app.canvas.graph.getNodeOnPos(event.canvasX, event.canvasY);
  if (!node?.pasteFiles) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  const picture = await (await fetch(event.dataTransfer.getData("text/uri-list"))).blob();
  node.pasteFiles([new File([picture], name, { type: picture.type })]);
}

window.addEventListener("drop", letFall, { capture: true });

function showOutput(node, outputs) {
  const { layerfusion_layers: sets, layerfusion_notices: notices } = outputs?.[outputKey(node)] ?? {};
  if (sets) viewers.get(node)?.show(sets, notices);
}

const href = new URL("viewer.css", import.meta.url).href;
document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href }));

app.registerExtension({
  name: "LayerFusion.Viewer",

  nodeCreated(node) {
    if (!VIEWED.includes(node.constructor.comfyClass)) return;
    const viewer = new ViewerElement(address, fetchPsd);
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
      viewer.show(output?.layerfusion_layers, output?.layerfusion_notices);
    };
    node.onRemoved = function () {
      onRemoved?.call(this);
      viewers.delete(node);
    };
    node.setSize([380, node.computeSize()[1]]);
    setTimeout(() => recall(node), 1000); // when the graph it belongs to is there
    if (app.collectNodeMenuItems) return; // asks getNodeMenuItems below
    const { getExtraMenuOptions } = node;
    node.getExtraMenuOptions = function (canvas, options) {
      options.unshift(...menuItems(this), null);
      return getExtraMenuOptions?.apply(this, arguments);
    };
  },

  getNodeMenuItems: menuItems,

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
