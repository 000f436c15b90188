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

app.registerExtension({
  name: "LayerFusion.Notices",

  setup() {
    api.addEventListener("executing", ({ detail }) => {
      const node = detail && app.graph.getNodeById(Number(detail.node ?? detail));
      if (node && speaks(node)) clear(node);
    });
  },

  nodeCreated(node) {
    if (!speaks(node)) return;
    const { onExecuted } = node;
    node.onExecuted = function (output) {
      onExecuted?.call(this, output);
      if (output?.layerfusion_notices?.length) show(this, output.layerfusion_notices);
    };
  },
});
