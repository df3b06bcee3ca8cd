// The box for a filter: column names are completed, and the parser's message stands under it.

import { byId, make, say, show } from "./dom.js";

const WORD = /[`\w.-]*$/;
const PLAIN = /^[^\W\d][\w.-]*$/;

export class FilterBox {
  constructor(onEnter) {
    this.input = byId("filter");
    this.list = byId("completions");
    this.names = [];
    this.at = -1;
    this.input.addEventListener("input", () => {
      this.complain("");
      this.offer();
    });
    this.input.addEventListener("blur", () => this.close());
    this.input.addEventListener("keydown", (event) => this.key(event, onEnter));
  }

  set columns(names) {
    this.names = ["label", "score", "image", ...names.filter((name) => !["label", "score", "image"].includes(name))];
  }

  get value() {
    return this.input.value.trim();
  }

  set value(text) {
    this.input.value = text;
    this.complain("");
  }

  complain(text) {
    this.input.setAttribute("aria-invalid", text ? "true" : "false");
    say(byId("filter-message"), text);
  }

  offer() {
    const typed = this.input.value.slice(0, this.input.selectionStart).match(WORD)[0].replaceAll("`", "");
    const fitting = typed ? this.names.filter((name) => name.toLowerCase().startsWith(typed.toLowerCase()) && name !== typed) : [];
    this.at = -1;
    this.list.replaceChildren(...fitting.slice(0, 20).map((name, number) => make("li", {
      role: "option", id: `completion-${number}`, "aria-selected": "false",
      onpointerdown: (event) => {
        event.preventDefault();
        this.take(name);
      },
    }, name)));
    show(this.list, fitting.length > 0);
    this.input.setAttribute("aria-expanded", String(fitting.length > 0));
    this.input.removeAttribute("aria-activedescendant");
  }

  close() {
    show(this.list, false);
    this.input.setAttribute("aria-expanded", "false");
  }

  take(name) {
    const end = this.input.selectionStart;
    const begin = end - this.input.value.slice(0, end).match(WORD)[0].length;
    const text = PLAIN.test(name) ? name : `\`${name}\``;
    this.input.setRangeText(`${text} `, begin, end, "end");
    this.close();
  }

  key(event, onEnter) {
    const options = [...this.list.children];
    const open = !this.list.hidden && options.length > 0;
    if (open && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      const step = event.key === "ArrowDown" ? 1 : -1;
      this.at = (this.at + step + options.length) % options.length;
      options.forEach((option, number) => option.setAttribute("aria-selected", String(number === this.at)));
      this.input.setAttribute("aria-activedescendant", options[this.at].id);
      event.preventDefault();
    } else if (open && event.key === "Escape") {
      this.close();
    } else if (open && (event.key === "Tab" || (event.key === "Enter" && this.at >= 0))) {
      this.take(options[Math.max(this.at, 0)].textContent);
      event.preventDefault();
    } else if (event.key === "Enter") {
      this.close();
      onEnter();
    }
  }
}
