// What takes a while to find out, the map and near-copies, comes after the page.
"use strict";

async function fill(place) {
  place.textContent = place.dataset.busy;
  try {
    const response = await fetch(place.dataset.address);
    place.innerHTML = await response.text(); // written by our own template, which escapes every name
  } catch {
    place.textContent = "The server does not answer; start it again and reload this page.";
  }
}

for (const place of document.querySelectorAll(".later")) fill(place);
