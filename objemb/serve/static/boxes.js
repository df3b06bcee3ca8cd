// The editor of boxes on a photo: draw, move, resize and delete, by mouse, touch and keyboard.

import { canvasOf, draw, make, rectangle, show } from "./dom.js";

const HANDLES = [[0, 1], [2, 1], [0, 3], [2, 3]];
const SMALLEST = 4;
// pixels of the screen: of a handle, and of what a finger hits
const HANDLE = 9;
const GRIP = matchMedia("(pointer: coarse)").matches ? 32 : 14;

export class BoxEditor {
  // size: [height, width] of the photo; boxes: edges in its pixels; offered: stored boxes that a click takes over
  constructor({ url, size, boxes, offered, label, onChange }) {
    this.size = size;
    this.boxes = boxes;
    const area = ({ box }) => (box[2] - box[0]) * (box[3] - box[1]);
    this.offered = [...offered].sort((one, other) => area(other) - area(one)); // small ones above large ones
    this.onChange = onChange;
    this.drag = null;
    this.selected = boxes.length - 1;
    this.layer = canvasOf(size);
    this.deletion = make(
      "button", { type: "button", class: "small", onclick: (event) => this.remove(event, this.selected) }, "Delete box",
    );
    this.element = make(
      "div",
      {
        class: "canvas", tabindex: 0, role: "group",
        "aria-label": `${label}. Draw a box, or press N for a box in the middle.`,
        onpointerdown: (event) => this.down(event),
        onpointermove: (event) => this.move(event),
        onpointerup: (event) => this.up(event),
        onpointercancel: () => this.cancel(),
        onkeydown: (event) => this.key(event),
      },
      make("img", { src: url, alt: "", draggable: "false" }),
      this.layer,
    );
    // a tall photo leaves room for the search button
    this.element.style.maxWidth = `calc(max(20rem, 55vh) * ${size[1] / size[0]})`;
    this.render();
    new ResizeObserver(() => this.drag || this.render()).observe(this.element);
  }

  // a box that has the focus keeps it, also where only the size of the canvas has changed
  render(focused = Number(this.layer.querySelector(".box:focus")?.dataset.box ?? -1)) {
    if (focused >= 0) this.selected = focused;
    this.selected = Math.min(this.selected, this.boxes.length - 1);
    show(this.deletion, this.boxes.length > 0);
    const pixel = this.size[1] / (this.element.clientWidth || this.size[1]);
    const shapes = this.offered
      .filter((one) => !this.boxes.some((box) => String(box) === String(one.box)))
      .map((one) => rectangle(one.box, {
        class: "offered", tabindex: 0, role: "button", "aria-label": `Search with the stored box ${one.label || ""}`,
      }));
    shapes.forEach((shape) => {
      shape.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") this.takeOver(shape, event);
      });
    });
    this.boxes.forEach((box, number) => {
      shapes.push(rectangle(box, {
        class: number === this.selected && this.boxes.length > 1 ? "box selected" : "box", "data-box": number, tabindex: 0, role: "img",
        "aria-label": `Box ${number + 1}: ${box.map(Math.round).join(", ")}. Arrows move it, with Shift they resize it, Delete removes it.`,
      }));
      const least = Math.min(box[2] - box[0], box[3] - box[1]) / 2; // leaves room to move the box
      const sides = { handle: HANDLE * pixel, grip: Math.max(HANDLE * pixel, Math.min(GRIP * pixel, least)) };
      HANDLES.forEach(([x, y]) => Object.entries(sides).forEach(([kind, side]) => shapes.push(draw("rect", {
        class: kind, "data-box": number, "data-x": x, "data-y": y,
        x: box[x] - side / 2, y: box[y] - side / 2, width: side, height: side,
      }))));
    });
    this.layer.replaceChildren(...shapes);
    if (focused >= 0) this.layer.querySelector(`.box[data-box="${focused}"]`)?.focus();
  }

  place(event) {
    const frame = this.layer.getBoundingClientRect();
    const [height, width] = this.size;
    return [
      Math.min(width, Math.max(0, ((event.clientX - frame.left) / frame.width) * width)),
      Math.min(height, Math.max(0, ((event.clientY - frame.top) / frame.height) * height)),
    ];
  }

  down(event) {
    if (event.button !== 0) return;
    const [x, y] = this.place(event);
    const { box, x: handleX, y: handleY } = event.target.dataset;
    const offered = event.target.classList.contains("offered") ? event.target : null;
    const drag = { x, y, offered, moved: false };
    if (handleX !== undefined) Object.assign(drag, { kind: "resize", box: Number(box), handleX: Number(handleX), handleY: Number(handleY) });
    else if (box !== undefined) Object.assign(drag, { kind: "move", box: Number(box), from: [...this.boxes[box]] });
    else Object.assign(drag, { kind: "draw", box: this.boxes.length });
    this.drag = drag;
    this.element.setPointerCapture(event.pointerId);
    event.preventDefault();
  }

  move(event) {
    const drag = this.drag;
    if (!drag) return;
    const [x, y] = this.place(event);
    const [height, width] = this.size;
    const reach = Math.max(height, width) / 200;
    if (!drag.moved && Math.abs(x - drag.x) < reach && Math.abs(y - drag.y) < reach) return;
    drag.moved = true;
    if (drag.kind === "draw") {
      this.boxes[drag.box] = [Math.min(x, drag.x), Math.min(y, drag.y), Math.max(x, drag.x), Math.max(y, drag.y)];
    } else if (drag.kind === "move") {
      this.boxes[drag.box] = this.shifted(drag.from, x - drag.x, y - drag.y);
    } else {
      const box = this.boxes[drag.box];
      box[drag.handleX] = drag.handleX === 0 ? Math.min(x, box[2] - SMALLEST) : Math.max(x, box[0] + SMALLEST);
      box[drag.handleY] = drag.handleY === 1 ? Math.min(y, box[3] - SMALLEST) : Math.max(y, box[1] + SMALLEST);
    }
    this.render();
  }

  up(event) {
    const drag = this.drag;
    this.drag = null;
    if (!drag) return;
    if (drag.moved) {
      const [x1, y1, x2, y2] = this.boxes[drag.box];
      if (x2 - x1 < SMALLEST || y2 - y1 < SMALLEST) this.boxes.splice(drag.box, 1);
      this.render(drag.box);
      this.onChange();
    } else if (drag.offered) {
      this.takeOver(drag.offered, event);
    } else {
      this.render(drag.kind === "draw" ? -1 : drag.box);
    }
  }

  cancel() {
    if (this.drag?.kind === "draw" && this.drag.moved) this.boxes.splice(this.drag.box, 1);
    this.drag = null;
    this.render();
  }

  takeOver(shape, event) {
    event.preventDefault();
    event.stopPropagation();
    const [x, y, width, height] = ["x", "y", "width", "height"].map((name) => Number(shape.getAttribute(name)));
    const stored = this.offered.find((one) => one.box[0] === x && one.box[1] === y);
    this.boxes.push(stored ? [...stored.box] : [x, y, x + width, y + height]);
    this.render(this.boxes.length - 1);
    this.onChange(true);
  }

  shifted(box, dx, dy) {
    const [height, width] = this.size;
    const x = Math.min(width - box[2], Math.max(-box[0], dx));
    const y = Math.min(height - box[3], Math.max(-box[1], dy));
    return [box[0] + x, box[1] + y, box[2] + x, box[3] + y];
  }

  key(event) {
    const [height, width] = this.size;
    if ((event.key === "n" || event.key === "N") && !event.ctrlKey && !event.metaKey) {
      this.boxes.push([width / 4, height / 4, (3 * width) / 4, (3 * height) / 4]);
      this.finish(event, this.boxes.length - 1);
      return;
    }
    const number = Number(event.target.dataset?.box ?? -1);
    if (number < 0) return;
    if (event.key === "Delete" || event.key === "Backspace") {
      this.remove(event, number);
      return;
    }
    const step = Math.max(1, Math.round(Math.max(height, width) / 100));
    const [dx, dy] = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key] || [0, 0];
    if (!dx && !dy) return;
    const box = this.boxes[number];
    if (event.shiftKey) {
      box[2] = Math.min(width, Math.max(box[0] + SMALLEST, box[2] + dx));
      box[3] = Math.min(height, Math.max(box[1] + SMALLEST, box[3] + dy));
    } else {
      this.boxes[number] = this.shifted(box, dx, dy);
    }
    this.finish(event, number);
  }

  remove(event, number) {
    this.boxes.splice(number, 1);
    this.finish(event, Math.min(number, this.boxes.length - 1));
    if (!this.boxes.length) this.element.focus();
  }

  finish(event, focused) {
    event.preventDefault();
    this.render(focused);
    this.onChange();
  }
}
