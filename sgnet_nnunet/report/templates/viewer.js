"use strict";

const byId = (id) => document.getElementById(id);
const boxes = [...document.querySelectorAll("input[data-mask]")];
const viewer = new niivue.Niivue({
  backColor: [0, 0, 0, 1],
  crosshairColor: [1, 1, 1, 0.5],
  crosshairWidth: 0.25,
  crosshairWidthUnit: "percent",
  isRadiologicalConvention: true,
  isOrientCube: true,
  dragAndDropEnabled: false,
  multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS,
  loadingText: "",
  logLevel: "error",
});
let shown = null;

/** Show a case: called by its script, once that is loaded. */
function showCase(content) {
  show(content).catch((error) => {
    byId("status").textContent = `${content.name} cannot be shown: ${error.message}`;
    throw error;
  });
}

async function show(content) {
  shown = content;
  const channel = byId("channel");
  const kept = channel.selectedIndex;
  channel.replaceChildren(...content.images.map((image) => new Option(image.name)));
  channel.selectedIndex = Math.min(Math.max(kept, 0), content.images.length - 1);
  byId("channel-label").hidden = !content.images.length;
  for (const box of boxes) {
    const mask = content.masks.find((each) => each.name === box.dataset.mask);
    box.disabled = !mask || !mask.voxels;
    box.parentNode.querySelector("small").textContent = !mask ? "not evaluated" : mask.voxels ? "" : "empty";
  }
  await draw();
  moveToTumour();
  byId("status").textContent = [content.name, ...content.notes].join("; ");
}

/** Load the chosen channel and all masks; a hidden mask stays loaded, with no opacity. */
async function draw() {
  const content = shown;
  const chosen = content.images[byId("channel").selectedIndex];
  const volumes = [];
  if (chosen) {
    volumes.push(await load(chosen, "image", { colormap: "gray", cal_min: 0, cal_max: 255, opacity: 1 }));
  } else {
    volumes.push(await load(content.masks[0], "background", { colormap: "gray", cal_min: 0, cal_max: 8, opacity: 1 }));
  }
  for (const [i, box] of boxes.entries()) {
    const mask = content.masks.find((each) => each.name === box.dataset.mask);
    if (!mask || !mask.voxels) continue;
    const volume = await load(mask, mask.name, { colormap: `mask${i}`, cal_min: 0, cal_max: 1, opacity: opacityOf(box) });
    volume.whole = volume.img;
    volume.shell = shellOf(volume.img, volume.hdr.dims);
    volumes.push(volume);
  }
  if (content !== shown) return;
  while (viewer.volumes.length) viewer.removeVolumeByIndex(0);
  for (const volume of volumes) viewer.addVolume(volume);
  updateMasks();
}

/** Return the voxels of a mask that touch one outside of it, face to face. */
function shellOf(mask, [, nx, ny, nz]) {
  const shell = new mask.constructor(mask.length);
  const steps = [1, nx, nx * ny];
  for (let at = 0; at < mask.length; at++) {
    if (!mask[at]) continue;
    const x = at % nx;
    const y = Math.floor(at / nx) % ny;
    const z = Math.floor(at / steps[2]);
    const edge = x === 0 || y === 0 || z === 0 || x === nx - 1 || y === ny - 1 || z === nz - 1;
    if (edge || steps.some((step) => !mask[at - step] || !mask[at + step])) shell[at] = mask[at];
  }
  return shell;
}

function load(volume, name, options) {
  return niivue.NVImage.loadFromBase64({ base64: volume.data, name: `${name}.nii.gz`, ...options });
}

/** Outlines are opaque: two half-transparent colours would mix to a third one. */
function opacityOf(box) {
  if (!box.checked) return 0;
  return byId("outline").checked ? 1 : Number(byId("opacity").value);
}

function updateMasks() {
  for (const box of boxes) {
    const index = viewer.volumes.findIndex((volume) => volume.name === `${box.dataset.mask}.nii.gz`);
    if (index < 1) continue;
    const volume = viewer.volumes[index];
    volume.opacity = opacityOf(box);
    volume.img = byId("outline").checked ? volume.shell : volume.whole;
  }
  viewer.updateGLVolume();
}

/** Put the crosshair into the slice with most of the reference, else of a prediction. */
function moveToTumour() {
  const place = shown.centre;
  if (place) {
    viewer.scene.crosshairPos = viewer.mm2frac(place);
    viewer.drawScene();
  }
}

const views = {
  multiplanar: "sliceTypeMultiplanar",
  axial: "sliceTypeAxial",
  coronal: "sliceTypeCoronal",
  sagittal: "sliceTypeSagittal",
  render: "sliceTypeRender",
};

/** Load a case's script; a browser lets a page from a disk run a file, but not read it. */
function choose() {
  const path = byId("case").value;
  byId("status").textContent = "Loading …";
  const script = document.createElement("script");
  script.src = path;
  script.onload = () => script.remove();
  script.onerror = () => (byId("status").textContent = `${path} is not there; keep the folder whole.`);
  document.head.append(script);
}

/** Choose the case that the address names after its #, as the report's links do. */
function chooseNamed() {
  const wanted = decodeURIComponent(location.hash.slice(1));
  const option = [...byId("case").options].find((each) => each.text === wanted);
  if (option) byId("case").value = option.value;
  choose();
}

function step(by) {
  const list = byId("case");
  list.selectedIndex = (list.selectedIndex + by + list.length) % list.length;
  choose();
}

async function start() {
  for (const [i, box] of boxes.entries()) {
    const [red, green, blue] = box.dataset.rgb.split(",").map(Number);
    viewer.addColormap(`mask${i}`, { R: [0, red], G: [0, green], B: [0, blue], A: [0, 255], I: [0, 255] });
    box.addEventListener("change", updateMasks);
  }
  await viewer.attachToCanvas(byId("gl"));
  viewer.setSliceType(viewer.sliceTypeMultiplanar);
  byId("opacity").addEventListener("input", updateMasks);
  byId("outline").addEventListener("change", updateMasks);
  byId("channel").addEventListener("change", draw);
  byId("view").addEventListener("change", () => viewer.setSliceType(viewer[views[byId("view").value]]));
  byId("case").addEventListener("change", choose);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  window.addEventListener("hashchange", chooseNamed);
  chooseNamed();
}

start();
