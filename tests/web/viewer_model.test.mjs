/** What the viewer decides, without a page. */

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { BACKDROPS, outputKey, SEGMENTS, outputOfHistory, ViewerModel, viewPath, ZOOMS } from "../../web/viewer_model.mjs";

const file = (name) => ({ filename: `${name}.png`, subfolder: "", type: "output" });
const MASKS = { structure: file("s"), content: file("c"), soft: file("m"), hard: file("h") };
const sample = (...layers) => Object.fromEntries(layers.map((layer) => [layer, file(layer)]));
const FULL = { ...sample("blended", "foreground", "background"), masks: MASKS };
const MATCHED = { ...FULL, ...sample("effects") };

let model;
beforeEach(() => {
  model = new ViewerModel();
});

test("before a run there is nothing to show and every choice says so", () => {
  for (const segment of [...SEGMENTS, "compare"]) assert.equal(model.missing(segment), "Run the workflow first");
  assert.equal(model.segment, "");
  assert.equal(model.caption, "");
  assert.equal(model.press("3"), true);
  assert.equal(model.caption, "Run the workflow first");
});

test("results that are no layers leave the viewer empty", () => {
  for (const sets of [undefined, null, "x", [], [{}], [null], [{ masks: MASKS }]]) {
    model.show(sets);
    assert.deepEqual(model.sets, []);
  }
});

test("a run shows the blended picture alone, which covers the others", () => {
  model.show([FULL]);
  assert.deepEqual(model.stack, ["blended"]);
  assert.equal(model.segment, "blended");
  assert.equal(model.caption, "The blended picture");
});

test("keys 1 to 5 choose the segments", () => {
  model.show([FULL]);
  const stacks = { blended: ["blended"], foreground: ["foreground"], background: ["background"], alpha: ["foreground"], masks: [] };
  SEGMENTS.forEach((segment, index) => {
    assert.equal(model.press(String(index + 1)), true);
    assert.equal(model.segment, segment);
    assert.deepEqual(model.stack, stacks[segment]);
  });
});

test("effects lie between background and foreground and have an eye of their own", () => {
  model.show([MATCHED]);
  assert.deepEqual(model.stack, ["blended"]);
  model.toggle("blended");
  assert.deepEqual(model.stack, ["background", "effects", "foreground"]);
  assert.equal(model.caption, "Foreground over effects over background");
  model.toggle("foreground");
  assert.equal(model.caption, "Effects over background");
  model.toggle("background");
  assert.deepEqual([model.stack, model.caption, model.segment], [["effects"], "The effects picture", "effects"]);
  model.press("2");
  assert.deepEqual(model.stack, ["foreground"]);
});

test("several foregrounds lie in order, each with an eye of its own", () => {
  const several = { ...sample("foreground_1", "background", "foreground_10", "blended", "foreground_2"), masks: MASKS };
  model.show([several]);
  assert.deepEqual(model.layers, ["blended", "foreground_10", "foreground_2", "foreground_1", "effects", "background"]);
  assert.deepEqual([model.stack, model.segment, model.missing("alpha")], [["blended"], "blended", ""]);
  model.press("2");
  const all = ["foreground_1", "foreground_2", "foreground_10"];
  assert.deepEqual([model.stack, model.segment], [all, "foreground"]);
  assert.equal(model.caption, "Foreground 10 over foreground 2 over foreground 1");
  model.toggle("foreground_2");
  assert.deepEqual([model.stack, model.segment], [["foreground_1", "foreground_10"], ""]);
  model.press("4");
  assert.deepEqual([model.stack, model.segment], [all, "alpha"]);
  model.toggle("blended");
  assert.deepEqual(model.stack, ["background", ...all]);
  model.toggle("foreground_1");
  model.show([FULL]); // a run with one: as it was, its own eye
  assert.deepEqual([model.layers.length, model.stack], [4, ["background", "foreground"]]);
  model.press("3");
  model.show([several, several]);
  assert.deepEqual([model.stack, model.segment], [["background"], "background"]);
});

test("a single foreground of several is not the segment of all", () => {
  model.show([sample("blended", "foreground_1", "foreground_2", "background")]);
  model.press("2");
  model.toggle("foreground_1");
  assert.deepEqual([model.stack, model.segment, model.caption], [["foreground_2"], "", "The foreground 2 picture"]);
});

test("other keys are left to the page", () => {
  model.show([FULL]);
  for (const key of ["0", "6", "x", "Enter", "Delete", "constructor", "", " "]) assert.equal(model.press(key), false, key);
  assert.equal(model.segment, "blended");
});

test("with the blended picture off, the foreground lies over the background", () => {
  model.show([FULL]);
  model.toggle("blended");
  assert.deepEqual(model.stack, ["background", "foreground"]);
  assert.equal(model.segment, "");
  assert.equal(model.caption, "Foreground over background");
  model.toggle("blended");
  assert.equal(model.segment, "blended");
});

test("hiding a layer takes off the blended picture that would cover the change", () => {
  model.show([FULL]);
  model.toggle("foreground");
  assert.deepEqual(model.eyes, { blended: false, foreground: false, effects: true, background: true });
  assert.equal(model.segment, "background");
  model.toggle("background");
  assert.deepEqual(model.stack, []);
  assert.equal(model.caption, "All layers hidden");
});

test("touching an eye leaves alpha, masks and comparison", () => {
  for (const view of ["alpha", "masks", "compare"]) {
    model.show([FULL]);
    model.choose(view);
    model.toggle("blended");
    assert.equal(model.view, "layers");
    assert.deepEqual(model.stack, ["background", "foreground"]);
  }
});

test("without priors the masks stay shut and say why", () => {
  model.show([sample("blended", "foreground", "background")]);
  model.press("2");
  model.press("5");
  assert.equal(model.segment, "foreground");
  assert.match(model.caption, /connect the sampler's priors/);
  model.press("1");
  assert.equal(model.caption, "The blended picture");
});

test("without a blended picture the other two are laid over each other", () => {
  model.show([sample("foreground", "background")]);
  assert.deepEqual(model.stack, ["background", "foreground"]);
  assert.equal(model.segment, "blended");
  assert.equal(model.caption, "Foreground over background");
  assert.notEqual(model.missing("compare"), "");
});

test("a run of a single layer offers just that", () => {
  model.show([sample("background")]);
  assert.deepEqual(SEGMENTS.filter((segment) => !model.missing(segment)), ["background"]);
  assert.deepEqual(model.stack, ["background"]);
  assert.equal(model.segment, "background");
});

test("the comparison puts the blended picture over the background and goes back", () => {
  model.show([FULL]);
  model.press("c");
  assert.deepEqual(model.stack, ["background", "blended"]);
  assert.equal(model.segment, "compare");
  model.press("C");
  assert.equal(model.segment, "blended");
});

test("the slider stays inside the picture", () => {
  for (const [to, where] of [[0.3, 0.3], [-1, 0], [7, 1]]) {
    model.slide(to);
    assert.equal(model.split, where);
  }
});

test("the arrow keys go through the batch and stop at its ends", () => {
  model.show([FULL, FULL, FULL]);
  const pages = ["ArrowLeft", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"].map((key) => {
    model.press(key);
    return model.page;
  });
  assert.deepEqual(pages, [0, 1, 2, 2, 1]);
  assert.equal(model.caption, "The blended picture, 2 of 3");
});

test("a new run keeps what the user looks at, as far as it has it", () => {
  model.show([FULL, FULL]);
  model.press("ArrowRight");
  model.press("5");
  model.press("b");
  model.show([FULL]);
  assert.deepEqual([model.page, model.segment, model.backdrop], [0, "masks", "dark"]);
  model.show([sample("blended", "foreground", "background")]);
  assert.equal(model.segment, "blended");
  model.press("3");
  model.show([FULL]);
  assert.equal(model.segment, "background");
});

test("backdrop and zoom go round", () => {
  const rounds = (key, name, values) => values.map(() => model.press(key) && model[name]);
  assert.deepEqual(rounds("b", "backdrop", BACKDROPS), [...BACKDROPS.slice(1), BACKDROPS[0]]);
  assert.deepEqual(rounds("z", "zoom", ZOOMS), [...ZOOMS.slice(1), ZOOMS[0]]);
});

test("addresses of files are escaped and complete", () => {
  const path = viewPath({ filename: "a b&c.png", subfolder: "cats/ré", type: "temp" });
  assert.deepEqual(Object.fromEntries(new URL(path, "http://host").searchParams), {
    filename: "a b&c.png", subfolder: "cats/ré", type: "temp",
  });
  assert.equal(viewPath({ filename: "a.png" }), "/view?filename=a.png&subfolder=&type=output");
});

test("results are found by the node's id, in a subgraph with the subgraph's before it", () => {
  const root = { id: "r" };
  root.rootGraph = root;
  assert.equal(outputKey({ id: 8, graph: root }), "8");
  assert.equal(outputKey({ id: 8, graph: { id: "s", rootGraph: root } }), "s:8");
  assert.equal(outputKey({ id: 8 }), "8");
});

test("sets come as JSON too, which the page does not take for pictures of its own", () => {
  model.show([JSON.stringify(FULL), MATCHED]);
  assert.deepEqual(model.sets, [FULL, MATCHED]);
});

test("why there are no masks: nothing connected, or nothing blended", () => {
  model.show([sample("blended", "foreground", "background")]);
  assert.match(model.missing("masks"), /connect the sampler's priors/);
  model.show([{ ...sample("blended", "foreground", "background"), masks: null }]);
  assert.match(model.missing("masks"), /no step of this run was blended/);
});

test("the file in view is that of the one picture that is seen", () => {
  assert.equal(model.file, undefined);
  model.show([MATCHED]);
  assert.deepEqual(model.file, file("blended"));
  for (const [key, name] of [["2", "foreground"], ["3", "background"], ["4", "foreground"], ["c", "blended"]]) {
    model.press(key);
    assert.deepEqual(model.file, file(name));
  }
  model.press("5");
  assert.equal(model.file, undefined);
  model.choose("blended");
  model.toggle("blended");
  assert.equal(model.file, undefined); // three pictures over each other
});

test("the last run of a workflow is found in the server's history", () => {
  const kind = "Save";
  const run = (workflow, prompt, outputs) => ({ prompt: [1, "id", prompt, { extra_pnginfo: { workflow: { id: workflow } } }], outputs });
  const history = {
    old: run("mine", { 3: { class_type: kind } }, { 3: { layerfusion_layers: ["old"] } }),
    mine: run("mine", { "7:3": { class_type: kind }, 4: { class_type: "Other" } }, { "7:3": { layerfusion_layers: ["new"] }, 4: {} }),
    other: run("theirs", { 3: { class_type: kind } }, { 3: { layerfusion_layers: ["theirs"] } }),
    bare: { prompt: [1, "id", {}, {}], outputs: {} },
  };
  assert.deepEqual(outputOfHistory(history, "mine", kind, 3), { layerfusion_layers: ["new"] });
  assert.deepEqual(outputOfHistory(history, "mine", kind, null), { layerfusion_layers: ["new"] });
  assert.equal(outputOfHistory(history, "mine", kind, 9), undefined);
  assert.equal(outputOfHistory(history, "none", kind, null), undefined);
});
