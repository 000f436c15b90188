/** What can be done with the picture in view: buttons under the viewer, and items of the node's menu. */

const NOTHING = "Show one layer first: this is several pictures over each other";

const noFile = (model) => (!model.sets.length ? "Run the workflow first" : model.file ? "" : NOTHING);

function download(href, name) {
  Object.assign(document.createElement("a"), { href, download: name }).click();
}

/** act: does it with a ViewerElement, gives what went wrong or nothing; missing: why it cannot be done now, or "". */
export const ACTIONS = {
  save: {
    label: "Save this picture",
    missing: noFile,
    async act({ model, address }) {
      download(address(model.file), model.file.filename);
    },
  },
  copy: {
    label: "Copy this picture",
    missing: noFile,
    async act({ model, address }) {
      if (!window.ClipboardItem) return "Copying needs https or localhost: this browser gives the page no clipboard";
      const picture = fetch(address(model.file)).then((answer) => answer.blob());
      await navigator.clipboard.write([new ClipboardItem({ "image/png": picture })]);
    },
  },
  open: {
    label: "Open this picture in a new tab",
    missing: noFile,
    async act({ model, address }) {
      window.open(address(model.file), "_blank");
    },
  },
  psd: {
    label: "Save all layers as one PSD file",
    missing: (model) => (model.sets.length ? "" : "Run the workflow first"),
    async act({ model, fetchPsd }) {
      const answer = await fetchPsd(model.set);
      if (!answer.ok) return await answer.text();
      const url = URL.createObjectURL(await answer.blob());
      download(url, answer.headers.get("Content-Disposition")?.match(/filename="(.+)"/)?.[1] ?? "layers.psd");
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    },
  },
};
