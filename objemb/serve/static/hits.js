// The photos that were found: a grid in pages, and a threshold that acts on what is loaded.

import { getImage, pictureOf } from "./api.js";
import { byId, canvasOf, make, rectangle, show } from "./dom.js";

const PAGE = 24;
const SIDE = 320;
const STEPS = 200;

export function scoreText(score) {
  const size = Math.abs(score);
  return size < 1e-8 || size >= 0.01 ? score.toFixed(3) : score.toPrecision(2);
}

export class Hits {
  constructor(onSearch) {
    this.onSearch = onSearch;
    this.shown = PAGE;
    this.cards = new Map();
    this.answer = null;
    this.threshold = byId("threshold");
    this.threshold.addEventListener("input", () => {
      this.shown = PAGE;
      this.render();
    });
    byId("hits-more").addEventListener("click", () => {
      this.shown += PAGE;
      this.render();
    });
  }

  state(text, loading = false) {
    const state = byId("results-state");
    state.textContent = text;
    state.className = loading ? "loading" : "";
  }

  begin() {
    show(byId("results"), true);
    byId("hits").replaceChildren();
    show(byId("hits-more"), false);
    show(byId("threshold-row"), false);
    show(byId("copies"), false);
    this.state("Searching", true);
  }

  fail() {
    show(byId("results"), false);
  }

  set(answer) {
    this.answer = answer;
    this.cards.clear();
    this.shown = PAGE;
    const scores = answer.hits.map((hit) => hit.score);
    const [low, high] = [Math.min(...scores), Math.max(...scores)];
    show(byId("threshold-row"), scores.length > 1);
    show(byId("copies"), true);
    Object.assign(this.threshold, { min: low, max: high, step: Math.max((high - low) / STEPS, 1e-9), value: low });
    this.render();
  }

  render() {
    const { hits, scale } = this.answer;
    const least = hits.length > 1 ? Number(this.threshold.value) : -Infinity;
    // the slider rounds its value to a step
    const passing = hits.filter((hit) => hit.score >= least - 1e-9);
    byId("threshold-value").textContent = hits.length > 1 ? scoreText(least) : "";
    const cards = passing.slice(0, this.shown).map((hit) => this.cardOf(hit));
    byId("hits").replaceChildren(...cards);
    show(byId("hits-more"), passing.length > this.shown);
    this.state(hits.length === 0
      ? "Nothing was found. The object may not be here, or the filter leaves nothing."
      : `${passing.length} of ${hits.length} photos · score: ${scale}`);
  }

  cardOf(hit) {
    if (!this.cards.has(hit.image)) this.cards.set(hit.image, makeCard(hit, this.onSearch));
    return this.cards.get(hit.image);
  }
}

function makeCard(hit, onSearch) {
  const picture = make("div", { class: "picture" }, make("div", { class: "missing loading" }, "Loading"));
  fillPicture(picture, hit);
  const facts = make("div", { class: "facts" }, make("b", {}, scoreText(hit.score)), ` ${hit.image}`);
  if (typeof hit.p_false === "number") facts.append(make("small", {}, `${Number(hit.p_false.toPrecision(2))} false expected`));
  const values = Object.entries(hit.metadata).map(([name, value]) => `${name}: ${value}`);
  const details = [...(hit.label ? [hit.label] : []), ...values].join(" · ");
  if (details) facts.append(make("small", {}, details));
  const search = make("button", { type: "button", class: "small", onclick: () => onSearch(hit.image, hit.box) }, "Search with this box");
  return make("article", { class: "card", "data-image": hit.image }, picture, facts, search);
}

async function fillPicture(picture, hit) {
  try {
    const [url, stored] = await Promise.all([pictureOf(hit.image, SIDE), getImage(hit.image)]);
    const runners = hit.runners_up.map((runner) => rectangle(runner.box, { class: "runner" }));
    picture.replaceChildren(
      make("img", { src: url, alt: `${hit.image}, with the box that matched` }),
      canvasOf(stored.size, ...runners, rectangle(hit.box, { class: "matched" })),
    );
  } catch (error) {
    picture.replaceChildren(make("div", { class: "missing" }, error.status === 404 ? "The photo is gone" : "The photo cannot be shown"));
  }
}
