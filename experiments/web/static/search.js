// The search page: a photo comes by choice, drop or paste, a box is drawn on it, answers replace the old ones.
"use strict";

const byId = (id) => document.getElementById(id);
const form = byId("search"), photo = byId("photo"), row = byId("row"), box = byId("box");
const stage = byId("stage"), preview = byId("preview"), part = byId("part"), answer = byId("answer");
const LONGEST_SIDE_MATCHES = 1000;
let running = null;

// ---- messages

function tell(field, text) {
  const place = byId(`${field}-message`) || byId("other-message");
  place.textContent = text;
}

function silence() {
  for (const message of form.querySelectorAll(".message")) message.textContent = "";
}

// ---- the photo

function show(address, caption, full) {
  if (preview.src.startsWith("blob:")) URL.revokeObjectURL(preview.src);
  byId("no-preview").hidden = true;
  stage.hidden = false;
  preview.alt = `Photo to search with: ${caption}`;
  byId("chosen").textContent = caption;
  delete preview.dataset.width;
  delete preview.dataset.height;
  if (full) Object.assign(preview.dataset, full);
  preview.src = address;
}

function take(file) {
  silence();
  if (file.size > Number(form.dataset.maxBytes)) {
    photo.value = "";
    tell("photo", `photo: expected at most ${form.dataset.maxBytes / 1e6} MB, got ${(file.size / 1e6).toFixed(1)} MB; save it smaller`);
    return false;
  }
  row.value = "";
  box.value = "";
  answer.replaceChildren();
  history.replaceState(null, "", "/");
  show(URL.createObjectURL(file), file.name || "pasted photo");
  return true;
}

function takeFrom(files) {
  if (!files.length) return;
  const chosen = new DataTransfer();
  chosen.items.add(files[0]);
  photo.files = chosen.files;
  if (take(files[0])) search();
}

preview.addEventListener("error", () => {
  if (!preview.getAttribute("src")) return;
  stage.hidden = true;
  byId("no-preview").hidden = false;
});
preview.addEventListener("load", drawBox);
photo.addEventListener("change", () => {
  if (photo.files.length && take(photo.files[0])) search();
});

const drop = byId("drop");
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  takeFrom(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) {
    event.preventDefault();
    takeFrom(event.clipboardData.files);
  }
});

// ---- the box, in pixels of the full upright photo

function fullSize() {
  return [Number(preview.dataset.width) || preview.naturalWidth, Number(preview.dataset.height) || preview.naturalHeight];
}

function drawBox() {
  const sides = box.value.split(",").map(Number);
  const [width, height] = fullSize();
  const proper = sides.length === 4 && sides.every(Number.isFinite) && sides[0] < sides[2] && sides[1] < sides[3];
  part.hidden = !proper || !width;
  if (part.hidden) return;
  const x = preview.clientWidth / width, y = preview.clientHeight / height;
  part.style.left = `${sides[0] * x}px`;
  part.style.top = `${sides[1] * y}px`;
  part.style.width = `${(sides[2] - sides[0]) * x}px`;
  part.style.height = `${(sides[3] - sides[1]) * y}px`;
}

let from = null;
preview.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  from = at(event);
  preview.setPointerCapture(event.pointerId);
  event.preventDefault();
});
preview.addEventListener("pointermove", (event) => {
  if (!from) return;
  const to = at(event);
  const sides = [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];
  const [width, height] = fullSize();
  // A click is no box: it takes a hundredth of the photo each way to mean one.
  if (sides[2] - sides[0] < width / 100 || sides[3] - sides[1] < height / 100) return;
  box.value = sides.map(Math.round).join(",");
  drawBox();
});
for (const kind of ["pointerup", "pointercancel"]) {
  preview.addEventListener(kind, () => { from = null; });
}

function at(event) {
  const shown = preview.getBoundingClientRect(), [width, height] = fullSize();
  const x = (event.clientX - shown.left) / shown.width, y = (event.clientY - shown.top) / shown.height;
  return [Math.min(1, Math.max(0, x)) * width, Math.min(1, Math.max(0, y)) * height];
}

box.addEventListener("input", drawBox);
window.addEventListener("resize", drawBox);
byId("whole").addEventListener("click", () => {
  box.value = "";
  drawBox();
  if (answer.querySelector("#results")) search();
});

// ---- searching

form.addEventListener("submit", (event) => {
  event.preventDefault();
  search(event.submitter);
});
form.addEventListener("change", (event) => {
  if (event.target.name === "step" && answer.querySelector("#results")) search();
});

async function search(button) {
  silence();
  if (running) running.abort();
  const mine = running = new AbortController();
  const sent = new FormData(form);
  if (button && button.name) sent.append(button.name, button.value);
  answer.setAttribute("aria-busy", "true");
  byId("status").className = "";
  byId("status").textContent = "Searching …";
  try {
    const response = await fetch("/results", { method: "POST", body: sent, signal: mine.signal });
    const kind = response.headers.get("content-type") || "";
    if (kind.startsWith("text/html")) put(await response.text());
    else refused(kind.startsWith("application/json") ? await response.json() : {});
    if (button && button.name === "page") answer.scrollIntoView();
  } catch (error) {
    if (error.name === "AbortError") return;
    byId("status").textContent = "";
    tell("", "The server does not answer; start it again, then search again: the photo is still here.");
  } finally {
    if (running === mine) answer.removeAttribute("aria-busy");
  }
}

function refused(fault) {
  byId("status").textContent = "";
  tell(fault.field || "", fault.message || "The server could not answer; try again.");
}

function put(html) {
  answer.innerHTML = html; // written by our own template, which escapes every name
  for (const told of answer.querySelectorAll(".told")) tell(told.dataset.field, told.textContent);
  const heading = answer.querySelector("h2");
  byId("status").className = "heard"; // the heading is there to be seen
  byId("status").textContent = heading ? heading.textContent : "";
}

// ---- matched points

answer.addEventListener("click", (event) => {
  const button = event.target.closest(".points");
  if (button) points(button);
});

async function points(button) {
  const sent = new FormData();
  if (photo.files.length) sent.append("photo", photo.files[0]);
  else sent.append("name", byId("chosen").textContent);
  sent.append("box", box.value);
  sent.append("to", button.dataset.name);
  byId("matches-text").textContent = "Matching …";
  byId("matches-drawing").replaceChildren();
  byId("matches").showModal();
  try {
    const response = await fetch("/points", { method: "POST", body: sent });
    const found = await response.json();
    if (found.message) byId("matches-text").textContent = found.message;
    else drawMatches(found, preview.src, button.dataset.picture);
  } catch {
    byId("matches-text").textContent = "The server does not answer; start it again.";
  }
}

function make(kind, values, parent) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(values)) made.setAttribute(name, value);
  parent.append(made);
  return made;
}

// Side by side at one height; on a narrow page one above the other at one width.
function drawMatches(found, query, picture) {
  const count = found.points.length, beside = window.innerWidth > 700;
  byId("matches-text").textContent = count ? `${count} matched points agree with one geometry.` : "No points that agree were found.";
  const [qw, qh] = found.query_size, [pw, ph] = found.photo_size, side = LONGEST_SIDE_MATCHES, gap = 12;
  const qs = side / (beside ? qh : qw), ps = side / (beside ? ph : pw);
  const dx = beside ? qw * qs + gap : 0, dy = beside ? 0 : qh * qs + gap;
  const width = beside ? dx + pw * ps : side, height = beside ? side : dy + ph * ps;
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${count} matched points` }, byId("matches-drawing"));
  make("image", { href: query, x: 0, y: 0, width: qw * qs, height: qh * qs, preserveAspectRatio: "none" }, svg);
  make("image", { href: picture, x: dx, y: dy, width: pw * ps, height: ph * ps, preserveAspectRatio: "none" }, svg);
  found.points.forEach(([x1, y1, x2, y2], number) => {
    const stroke = `hsl(${(number * 137.5) % 360} 85% 55%)`;
    make("line", { x1: x1 * qs, y1: y1 * qs, x2: dx + x2 * ps, y2: dy + y2 * ps, stroke, class: "line" }, svg);
  });
}

drawBox();
