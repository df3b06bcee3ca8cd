// Small helpers for elements. Text from outside is always set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

export function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function draw(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== null) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

export function show(element, shown) {
  element.hidden = !shown;
}

export function say(element, text, kind = "") {
  element.textContent = text;
  element.className = kind;
  show(element, text !== "");
}

export function rectangle(box, attributes) {
  const [x1, y1, x2, y2] = box;
  return draw("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, ...attributes });
}

export function canvasOf(size, ...children) {
  const [height, width] = size;
  return draw("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" }, ...children);
}
