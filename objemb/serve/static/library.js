// The library: indexed photos in pages; a click opens one with its stored boxes.

import { listImages, pictureOf } from "./api.js";
import { byId, make, show } from "./dom.js";

const PAGE = 48;
const SIDE = 160;

export class Library {
  constructor(onChoose, onProblem) {
    this.onChoose = onChoose;
    this.onProblem = onProblem;
    this.next = 0;
    byId("library-more").addEventListener("click", () => this.more());
  }

  async open(where) {
    this.where = where;
    this.next = 0;
    byId("library-grid").replaceChildren();
    show(byId("library"), true);
    await this.more();
  }

  close() {
    show(byId("library"), false);
  }

  async more() {
    const state = byId("library-state");
    const more = byId("library-more");
    state.textContent = "Loading";
    state.className = "loading";
    more.disabled = true;
    try {
      const page = await listImages(this.next, PAGE, this.where);
      byId("library-grid").append(...page.images.map((id) => this.cardOf(id)));
      this.next = page.next;
      show(more, page.next !== null);
      state.textContent = page.total ? `${page.total} photos. Choose one to search with.` : "No photo is indexed, or none matches the filter.";
    } catch (error) {
      this.close();
      this.onProblem(error);
    } finally {
      state.className = "";
      more.disabled = false;
    }
  }

  cardOf(id) {
    const picture = make("button", { type: "button", class: "picture", "aria-label": `Search with ${id}`, onclick: () => this.onChoose(id) },
      make("span", { class: "missing" }, id));
    pictureOf(id, SIDE).then(
      (url) => picture.replaceChildren(make("img", { src: url, alt: "" })),
      () => picture.replaceChildren(make("span", { class: "missing" }, `${id}: the photo is gone`)),
    );
    return make("article", { class: "card" }, picture, make("div", { class: "facts" }, id));
  }
}
