/** Prints the layers of a PSD file as ag-psd, the library of most web tools, reads them. */

import { readFileSync } from "node:fs";
import { initializeCanvas, readPsd } from "ag-psd";

const pixels = (width, height) => ({ width, height, data: new Uint8ClampedArray(4 * width * height) });
const canvas = (width, height) => ({ width, height, getContext: () => ({ createImageData: pixels }) });
initializeCanvas(canvas);
const { width, height, bitsPerChannel, imageData, children } = readPsd(readFileSync(process.argv[2]), { useImageData: true });
const layers = children.map(({ name, hidden, imageData: { data } }) => ({ name, hidden, pixels: [...data] }));
console.log(JSON.stringify({ width, height, depth: bitsPerChannel, preview: [...imageData.data], layers }));
