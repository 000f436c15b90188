/** What the viewer shows, without a page: the files of a run and the user's choices in, plain descriptions out. */

/** The nodes that have a viewer, by their class. */
export const VIEWED = ["LayerFusionSaveLayers", "LayerFusionPreviewLayers"];

const LAYERS = ["blended", "foreground", "effects", "background"]; // top to bottom; several foregrounds are foreground_1, ...
export const SEGMENTS = ["blended", "foreground", "background", "alpha", "masks"]; // keys 1 to 5
export const MASKS = ["structure", "content", "soft", "hard"];
export const BACKDROPS = ["checkerboard", "dark", "light", "colour"];
export const ZOOMS = [0, 1, 4]; // 0 fits the node, n shows a pixel of the picture as n x n of the screen

const UNCONNECTED = "No masks: connect the sampler's priors to this node";
const UNBLENDED = "No masks: no step of this run was blended (strength 0, or nothing between start and end)";

/** Which of LAYERS a layer is: that of foreground_2 is foreground. */
const kind = (layer) => layer.replace(/^foreground_\d+$/, "foreground");

/** A layer in words. */
export const layerName = (layer) => layer.replace("_", " ");

export class ViewerModel {
  // per sample {blended, foreground | foreground_1 ... (the rearmost), effects?, background, masks?: {structure, ...} or null} of files
  sets = [];
  page = 0;
  view = "layers"; // layers | alpha | masks | compare
  eyes = { blended: true, foreground: true, effects: true, background: true };
  backdrop = "checkerboard";
  split = 0.5; // where the slider stands, as a share of the width
  zoom = 0;
  notice = ""; // why the last wish was refused

  /** Take the files of a run, each set an object or its JSON; choices stay as far as the new files allow. */
  show(sets) {
    const shows = (set) => Object.keys(set ?? {}).some((key) => set[key] && LAYERS.includes(kind(key)));
    const parsed = Array.isArray(sets) ? sets.map((set) => (typeof set === "string" ? JSON.parse(set) : set)) : [];
    this.sets = parsed.filter(shows);
    for (const layer of this.layers) this.eyes[layer] ??= this.eyes[kind(layer)];
    this.turn(0);
  }

  /** The layers of the run, top to bottom. */
  get layers() {
    const several = Object.keys(this.sets[0] ?? {}).filter((key) => key !== "foreground" && kind(key) === "foreground");
    several.sort((a, b) => b.split("_")[1] - a.split("_")[1]); // the last one lies in front
    return LAYERS.flatMap((layer) => (layer === "foreground" && several.length ? several : layer));
  }

  /** The layers of a kind that the picture under the eye has, top to bottom. */
  #of(wanted) {
    return this.layers.filter((layer) => kind(layer) === wanted && this.set[layer]);
  }

  get set() {
    return this.sets[this.page] ?? {};
  }

  /** Why a segment or the comparison cannot be shown; "" when it can. */
  missing(choice) {
    if (!this.sets.length) return "Run the workflow first";
    const { blended, background, masks } = this.set;
    const foreground = this.#of("foreground").length > 0;
    if (choice === "masks") return masks ? "" : masks === null ? UNBLENDED : UNCONNECTED;
    if (choice === "alpha") return foreground ? "" : "No foreground in this run, so no alpha";
    if (choice === "compare") return blended && background ? "" : "Needs a blended picture and a background";
    if (choice === "blended" && foreground && background) return ""; // else laid over each other
    return this.#of(choice).length ? "" : `No ${choice} picture in this run`;
  }

  /** Show one segment, or "compare": the blended picture against the background. */
  choose(choice) {
    this.notice = this.missing(choice);
    if (this.notice) return;
    this.view = LAYERS.includes(choice) ? "layers" : choice;
    if (this.view !== "layers") return;
    for (const layer of Object.keys(this.eyes)) this.eyes[layer] = choice === "blended" || kind(layer) === choice;
  }

  /** Show or hide one layer of the stack. The blended picture covers the others, so touching those takes it off. */
  toggle(layer) {
    if (this.view !== "layers") this.choose("blended");
    this.notice = "";
    this.eyes[layer] = !this.eyes[layer];
    if (layer !== "blended") this.eyes.blended = false;
  }

  /** Go through the batch. */
  turn(by) {
    this.notice = "";
    this.page = Math.max(0, Math.min(this.page + by, this.sets.length - 1));
    if (this.view !== "layers" && this.missing(this.view)) {
      this.view = "layers";
      this.choose("blended");
    }
  }

  slide(to) {
    this.split = Math.min(Math.max(to, 0), 1);
  }

  /** Do what a key stands for; false when it stands for nothing here. */
  press(key) {
    const next = (values, value) => values[(values.indexOf(value) + 1) % values.length];
    const acts = {
      arrowleft: () => this.turn(-1),
      arrowright: () => this.turn(1),
      b: () => (this.backdrop = next(BACKDROPS, this.backdrop)),
      c: () => this.choose(this.view === "compare" ? "blended" : "compare"),
      z: () => (this.zoom = next(ZOOMS, this.zoom)),
      ...Object.fromEntries(SEGMENTS.map((segment, index) => [index + 1, () => this.choose(segment)])),
    };
    const known = Object.hasOwn(acts, key.toLowerCase());
    if (known) acts[key.toLowerCase()]();
    return known;
  }

  /** Layers to draw, bottom to top. */
  get stack() {
    if (this.view === "alpha") return this.#of("foreground").reverse();
    if (this.view === "compare") return ["background", "blended"];
    if (this.view === "masks") return [];
    const shown = this.layers.filter((layer) => this.set[layer] && this.eyes[layer]);
    return shown[0] === "blended" ? ["blended"] : shown.reverse();
  }

  /** The segment whose picture is shown; "" for a choice of layers that is none of them. */
  get segment() {
    if (this.view !== "layers") return this.view;
    const { stack } = this;
    const whole = SEGMENTS.concat("effects").find((segment) => {
      const own = this.#of(segment);
      return own.length && own.length === stack.length && stack.every((layer) => own.includes(layer));
    });
    return whole ?? (stack.length > 1 && !this.set.blended ? "blended" : "");
  }

  /** The file that is in view, undefined when what is seen is no file of its own. */
  get file() {
    const shown = this.view === "compare" ? ["blended"] : this.stack;
    return shown.length === 1 ? this.set[shown[0]] : undefined;
  }

  /** The picture in words, for the line under it and for screen readers. */
  get caption() {
    if (this.notice || !this.sets.length) return this.notice;
    const over = [...this.stack].reverse().map(layerName).join(" over ");
    const words = {
      alpha: "Alpha: white is opaque, black transparent",
      masks: "Masks of the last blended step: blue 0, red 1",
      compare: "Left blended picture, right background",
      layers: this.stack.length > 1 ? over[0].toUpperCase() + over.slice(1) : over ? `The ${over} picture` : "All layers hidden",
    };
    return words[this.view] + (this.sets.length > 1 ? `, ${this.page + 1} of ${this.sets.length}` : "");
  }
}

/** Address of a file on the server, as /view takes it. */
export function viewPath({ filename, subfolder = "", type = "output" }) {
  return `/view?${new URLSearchParams({ filename, subfolder, type })}`;
}

/** Key of a node in the page's table of outputs: its id, behind the id of its subgraph where it lies in one. */
export function outputKey({ id, graph }) {
  return graph?.rootGraph && graph !== graph.rootGraph ? `${graph.id}:${id}` : String(id);
}

/** Output of a node of `kind` in the newest run of a workflow that the server's history has; id: the node's, null for any; or undefined. */
export function outputOfHistory(history, workflow, kind, id) {
  const runs = Object.values(history).reverse().filter(({ prompt }) => prompt[3]?.extra_pnginfo?.workflow?.id === workflow);
  for (const { prompt, outputs } of runs) {
    for (const [key, output] of Object.entries(outputs)) {
      const same = id === null || key.split(":").at(-1) === String(id);
      if (same && prompt[2][key]?.class_type === kind && output.layerfusion_layers) return output;
    }
  }
  return undefined;
}
