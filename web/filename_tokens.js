/** Fills in %date:...% and %Node.widget% in Save Layers' filename_prefix when a run is queued, as the host does for Save Image. */

import { app } from "../../scripts/app.js";

app.registerExtension({
  name: "LayerFusion.FilenameTokens",

  nodeCreated(node) {
    if (node.constructor.comfyClass !== "LayerFusionSaveLayers") return;
    const prefix = node.widgets?.find(({ name }) => name === "filename_prefix");
    if (!prefix) return;
    // The host's own function, so that both nodes name alike. The saved graph keeps the tokens.
    prefix.serializeValue = () =>
      window.comfyAPI?.utils?.applyTextReplacements?.(app, prefix.value) ?? prefix.value;
  },
});
