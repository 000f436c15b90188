/** Shows what a node has to say about its result: one line on the node, the whole on hover. Stays until the node runs again. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { VIEWED } from "./viewer_model.mjs";

const WIDGET = "layerfusion_notice";
const HEIGHT = 22;
const STYLE =
  "box-sizing:border-box;height:20px;padding:0 8px;border:1px solid #b8860b;border-radius:4px;color:#e8b84a;" +
  "font:12px sans-serif;line-height:18px;white-space:nowrap;overflow:hidden;text-overflow:ellipsis";

/** A viewer says it in its caption. */
const speaks = ({ constructor: { comfyClass } }) => comfyClass?.startsWith("LayerFusion") && !VIEWED.includes(comfyClass);
const element = (node) => node.widgets?.find(({ name }) => name === WIDGET)?.element;

function show(node, notices) {
  let line = element(node);
  if (!line) {
    line = document.createElement("div");
    line.style.cssText = STYLE;
    line.setAttribute("role", "status");
    const widget = node.addDOMWidget(WIDGET, "div", line, {
      serialize: false, getMinHeight: () => HEIGHT, getMaxHeight: () => HEIGHT, hideOnZoom: false,
    });
    widget.serialize = false;
  }
  const found = notices.map((text) => JSON.parse(text));
  line.textContent = found.map(({ line }) => line).join("; ");
  line.title = found.map(({ text }) => text).join("\n\n");
  fit(node);
}

function clear(node) {
  const index = node.widgets?.findIndex(({ name }) => name === WIDGET) ?? -1;
  if (index < 0) return;
  const [widget] = node.widgets.splice(index, 1);
  widget.onRemove?.();
  widget.element?.remove();
  fit(node);
}

/** As tall as its parts need, or as tall as it was. */
function fit(node) {
  const [width, height] = node.size;
  node.setSize([width, Math.max(height, node.computeSize()[1])]);
  node.setDirtyCanvas?.(true, true);
}

/** The node of an execution id, which is its own behind those of the subgraphs it lies in. */
function nodeOf(id) {
  let graph = app.rootGraph ?? app.graph;
  let node;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(part);
    graph = node?.subgraph;
  }
  return node && speaks(node) ? node : undefined;
}

/** What a finished run's nodes have to say, also those of which the host sent nothing: older ones do so of cached nodes. */
async function recall(run) {
  const answer = await api.fetchApi(`/history/${run}`);
  const outputs = answer.ok ? (await answer.json())[run]?.outputs : undefined;
  for (const [id, { layerfusion_notices: notices }] of Object.entries(outputs ?? {})) {
    const node = notices?.length && nodeOf(id);
    if (node) show(node, notices);
  }
}

app.registerExtension({
  name: "LayerFusion.Notices",

  setup() {
    let run;
    api.addEventListener("execution_start", ({ detail }) => (run = detail.prompt_id));
    api.addEventListener("executing", ({ detail }) => {
      const id = detail?.node ?? detail;
      const node = id && nodeOf(id);
      if (node) clear(node);
      if (!id && run) recall(run);
    });
  },

  nodeCreated(node) {
    if (!speaks(node)) return;
    const { onExecuted } = node;
    node.onExecuted = function (output) {
      onExecuted?.call(this, output);
      const notices = output?.layerfusion_notices;
      notices?.length ? show(this, notices) : clear(this);
    };
  },
});
