/** The viewer's one element: draws a ViewerModel and feeds the user's actions back into it. */

import { BACKDROPS, layerName, MASKS, SEGMENTS, ViewerModel } from "./viewer_model.mjs";
import { ACTIONS } from "./viewer_actions.mjs";

const NAMES = { structure: "Structure prior", content: "Content confidence", soft: "Soft mask", hard: "Hard mask" };
const EMPTY = "Run the workflow to see the layers here.";
const GONE = "A picture of this run is no longer on the server.";

/** Kind of data that says that a dragged picture comes from a viewer: its file's name. */
export const CARRIED = "text/x-layerfusion-picture";

const title = (text) => text[0].toUpperCase() + text.slice(1);

/** An element with properties (also ARIA's, which set the attributes of those names) and children. */
function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const group = (className, ariaLabel, ...children) => make("div", { className, role: "group", ariaLabel }, ...children);

/** Label of a button, whether it is pressed (null: it is no switch), and whether it can be used now. */
function state(button, label, pressed = null, disabled = false) {
  Object.assign(button, { title: label, ariaLabel: label, ariaPressed: pressed, ariaDisabled: Boolean(disabled) });
}

export class ViewerElement {
  model = new ViewerModel();
  pan = [0, 0]; // of the zoomed picture, in CSS pixels
  pictures = {}; // <img> per layer and per mask
  notices = []; // what the node has to say about the run shown
  layers = []; // of the run shown, top to bottom

  /** address: function from a file of the UI result to its URL; fetchPsd: from a set of files to the answer with its PSD. */
  constructor(address, fetchPsd) {
    Object.assign(this, { address, fetchPsd });
    this.element = make("div", {
      className: "layerfusion-viewer", tabIndex: 0, role: "region", ariaLabel: "Layers",
      ariaKeyShortcuts: "1 2 3 4 5 B C Z ArrowLeft ArrowRight",
    }, this.#segments(), this.#stage(), this.#bar());
    this.element.addEventListener("keydown", (event) => this.#key(event));
    this.draw();
  }

  /** Show the files of a run, and what the node has to say about it ({ line, text } as JSON each). */
  show(sets, notices = []) {
    this.notices = notices.map((text) => JSON.parse(text));
    this.model.show(sets);
    this.draw();
  }

  #button(className, text, act) {
    const button = make("button", { type: "button", className, textContent: text });
    button.addEventListener("click", () => {
      act();
      this.draw();
    });
    return button;
  }

  #segments() {
    this.segments = SEGMENTS.map((name) => this.#button(`segment ${name}`, title(name), () => this.model.choose(name)));
    return group("segments", "What to show", ...this.segments);
  }

  #stage() {
    for (const name of MASKS) this.pictures[name] = this.#picture(NAMES[name]);
    this.divider = make("div", {
      className: "divider", tabIndex: 0, role: "slider", ariaLabel: "Blended picture against background",
      ariaValueMin: 0, ariaValueMax: 100,
    });
    const maps = MASKS.map((name) => make("figure", {}, this.pictures[name], make("figcaption", {}, NAMES[name])));
    this.sheet = make("div", { className: "sheet" }, this.divider);
    this.note = make("p", { className: "note" });
    const figures = make("div", { className: "maps" }, ...maps);
    this.stage = make("div", { className: "stage" }, this.sheet, figures, this.note);
    this.stage.addEventListener("pointerdown", (event) => this.#drag(event));
    this.stage.addEventListener("dblclick", (event) => this.#zoomAt(event));
    return this.stage;
  }

  #picture(alt) {
    const redraw = () => this.draw();
    return make("img", { alt, ondragstart: (event) => this.#carry(event), onload: redraw, onerror: redraw });
  }

  /** A picture and an eye for each layer of the run, which may have several foregrounds. */
  #stack(layers) {
    if (layers.join() === this.layers.join()) return;
    for (const layer of this.layers) {
      this.pictures[layer].remove();
      delete this.pictures[layer];
    }
    this.layers = layers;
    for (const layer of layers) this.pictures[layer] = this.#picture(title(layerName(layer)));
    this.sheet.prepend(...layers.map((layer) => this.pictures[layer]).reverse());
    this.eyes = layers.map((layer) => this.#button("eye", title(layerName(layer)), () => this.model.toggle(layer)));
    this.eyeGroup.replaceChildren(...this.eyes);
  }

  #bar() {
    this.eyeGroup = group("eyes", "Layers that are composited");
    this.swatches = BACKDROPS.map((name) => this.#button(`swatch ${name}`, "", () => (this.model.backdrop = name)));
    this.compare = this.#button("compare", "", () => this.model.press("c"));
    this.zoom = this.#button("zoom", "", () => this.model.press("z"));
    this.back = this.#button("back", "‹", () => this.model.turn(-1));
    this.next = this.#button("next", "›", () => this.model.turn(1));
    this.count = make("span", {});
    this.pager = group("pager", "Pictures of the batch", this.back, this.count, this.next);
    this.actions = Object.keys(ACTIONS).map((name) => {
      const button = make("button", { type: "button", className: `action ${name}` });
      button.addEventListener("click", () => this.act(name));
      return button;
    });
    this.caption = make("output", { className: "caption" });
    return make("div", { className: "bar" },
      this.eyeGroup,
      group("tools", "View", group("swatches", "Backdrop", ...this.swatches), this.compare, this.zoom, this.pager),
      group("actions", "Picture in view", ...this.actions),
      this.caption);
  }

  /** Do one of ACTIONS with the picture in view; what went wrong is said in the caption. */
  async act(name) {
    const { model } = this;
    model.notice = ACTIONS[name].missing(model) || (await ACTIONS[name].act(this).catch((error) => error.message)) || "";
    this.draw();
  }

  /** Into other programs and into Load Image goes the file in view, whichever of the stacked pictures is on top. */
  #carry(event) {
    const { file } = this.model;
    if (!file || this.model.zoom || this.model.view === "compare") return event.preventDefault();
    const url = new URL(this.address(file), location.href).href;
    event.stopPropagation(); // the page drags nodes of its own
    event.dataTransfer.setData("text/uri-list", url);
    event.dataTransfer.setData("DownloadURL", `image/png:${file.filename}:${url}`);
    event.dataTransfer.setData(CARRIED, file.filename);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Delete" || event.key === "Backspace") event.stopPropagation(); // would delete the node
    const step = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -1, End: 1 }[event.key];
    if (event.target === this.divider && step) this.model.slide(this.model.split + step);
    else if (!this.model.press(event.key)) return;
    event.preventDefault();
    event.stopPropagation(); // the page has shortcuts of its own
    this.draw();
  }

  /** Left button: move the slider, or the zoomed picture. */
  #drag(event) {
    const { view, zoom } = this.model;
    if (event.button !== 0 || view === "masks" || !(zoom || view === "compare")) return;
    const sliding = view === "compare" && (event.target === this.divider || !zoom);
    const before = [this.pan[0] - event.clientX / this.#scale(), this.pan[1] - event.clientY / this.#scale()];
    const move = ({ clientX, clientY }) => {
      const { left, width } = this.sheet.getBoundingClientRect();
      if (sliding) this.model.slide((clientX - left) / width);
      else this.pan = [before[0] + clientX / this.#scale(), before[1] + clientY / this.#scale()];
      this.draw();
    };
    const ended = new AbortController();
    const { signal } = ended;
    this.stage.setPointerCapture(event.pointerId);
    this.stage.addEventListener("pointermove", move, { signal });
    for (const end of ["pointerup", "pointercancel"]) this.stage.addEventListener(end, () => ended.abort(), { signal });
    move(event);
  }

  /** Next zoom level, with the place under the pointer in the middle. */
  #zoomAt({ clientX, clientY }) {
    if (this.model.view === "masks") return;
    const { left, top, width, height } = this.sheet.getBoundingClientRect();
    this.model.press("z");
    this.draw();
    const { offsetWidth, offsetHeight } = this.sheet;
    this.pan = [(0.5 - (clientX - left) / width) * offsetWidth, (0.5 - (clientY - top) / height) * offsetHeight];
    this.draw();
  }

  /** Screen pixels per CSS pixel of the stage: the canvas scales its nodes. */
  #scale() {
    return this.stage.getBoundingClientRect().width / this.stage.offsetWidth || 1;
  }

  draw() {
    const { model } = this;
    const empty = !model.sets.length;
    this.#stack(model.layers);
    Object.assign(this.element.dataset, { view: empty ? "empty" : model.view, backdrop: model.backdrop });
    SEGMENTS.forEach((name, index) => {
      const reason = model.missing(name);
      const label = `${title(name)} (${index + 1})${reason && `. ${reason}.`}`;
      state(this.segments[index], label, model.segment === name, reason);
    });
    this.layers.forEach((layer, index) => {
      state(this.eyes[index], `Show or hide the ${layerName(layer)} layer`, model.view === "layers" && model.eyes[layer]);
      this.eyes[index].hidden = !model.set[layer];
    });
    BACKDROPS.forEach((name, index) => state(this.swatches[index], `Backdrop: ${name} (B)`, model.backdrop === name));
    const sliding = model.view === "compare";
    state(this.compare, "Slide between blended picture and background (C)", sliding, model.missing("compare"));
    this.zoom.textContent = model.zoom ? `${model.zoom}:1` : "Fit";
    state(this.zoom, `Zoom ${model.zoom ? `${model.zoom} to 1` : "to fit"} (Z, double click)`);
    state(this.back, "Previous picture (arrow left)", null, model.page === 0);
    state(this.next, "Next picture (arrow right)", null, model.page >= model.sets.length - 1);
    this.pager.hidden = model.sets.length < 2;
    this.count.textContent = `${model.page + 1} / ${model.sets.length}`;
    Object.entries(ACTIONS).forEach(([name, { label, missing }], index) => {
      const reason = missing(model);
      state(this.actions[index], reason ? `${label}. ${reason}.` : label, null, reason);
    });
    const said = (key) => [...this.notices.map((notice) => notice[key]), model.caption].filter(Boolean);
    this.caption.value = said("line").join(" · ");
    this.caption.title = said("text").join("\n");
    // Every picture is loaded at once, so that switching between them is immediate.
    const loaded = [
      ...this.layers.map((layer) => this.#load(layer, model.set[layer], model.stack.includes(layer))),
      ...MASKS.map((name) => this.#load(name, model.set.masks?.[name], model.view === "masks")),
    ];
    this.note.textContent = empty ? EMPTY : loaded.every(Boolean) ? "" : GONE;
    this.divider.ariaValueNow = Math.round(model.split * 100);
    this.#place(model);
  }

  /** Size and place of the sheet. */
  #place({ zoom, split }) {
    const picture = this.layers.map((layer) => this.pictures[layer]).find(({ naturalWidth }) => naturalWidth);
    const { naturalWidth, naturalHeight } = picture ?? { naturalWidth: 1, naturalHeight: 1 };
    const { style } = this.sheet;
    style.setProperty("--split", split);
    style.setProperty("--ratio", naturalWidth / naturalHeight);
    style.width = zoom ? `${(naturalWidth * zoom) / (this.#scale() * window.devicePixelRatio)}px` : "";
    style.translate = zoom ? `${this.pan[0]}px ${this.pan[1]}px` : "";
    this.stage.classList.toggle("zoomed", zoom > 0);
  }

  /** Put a file into its <img>; false when it is to be seen but could not be loaded. */
  #load(name, file, visible) {
    const picture = this.pictures[name];
    const source = file ? this.address(file) : "";
    if (!source) picture.removeAttribute("src");
    else if (picture.getAttribute("src") !== source) picture.src = source;
    const failed = source && picture.complete && !picture.naturalWidth;
    picture.hidden = !visible || !source || failed;
    return !(visible && failed);
  }
}
