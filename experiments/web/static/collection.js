// The map is laid out when it is first asked for, which may take a while: it comes after the page.
"use strict";

const map = document.getElementById("map");

async function draw() {
  map.textContent = "The map is being drawn …";
  try {
    const response = await fetch(map.dataset.address);
    map.innerHTML = await response.text(); // written by our own template, which escapes every name
  } catch {
    map.textContent = "The server does not answer; start it again and reload this page.";
  }
}

draw();
