/** The page: puts the parts together. */

import { Card } from "./card.js";
import { announce, find } from "./dom.js";
import { showFigures } from "./figures.js";
import { takePictures } from "./intake.js";
import { Models } from "./models.js";
import { Problem, Unreachable, ask, connection, hasKey, reachable, sleep, useKey } from "./service.js";

const LOOK_AT_MODELS_MS = 15_000;
const WHILE_LOADING_MS = 1000;

let cards = [];
const models = new Models(showAll);

function showAll() {
  for (const card of cards) show(card);
}

function show(card) {
  if (models.chosen.length) card.show(models.chosen);
}

function changed() {
  document.body.toggleAttribute("data-empty", cards.length === 0);
  find("cards").dataset.count = cards.length;
}

function remove(card) {
  card.stop();
  card.element.remove();
  cards = cards.filter((other) => other !== card);
  changed();
  announce(`${card.file.name} removed`);
  (cards.length ? find("pictures") : find("pick")).focus();
}

takePictures((files) => {
  const added = files.map((file) => new Card(file, remove));
  cards = [...added, ...cards];
  find("cards").prepend(...added.map((card) => card.element));
  changed();
  added.forEach(show);
  // On a phone the settings fill the screen, and the answer would come unseen.
  if (matchMedia("(max-width: 40rem)").matches) added[0].element.scrollIntoView();
});

find("clear").addEventListener("click", () => {
  cards.forEach((card) => card.stop());
  cards = [];
  find("cards").replaceChildren();
  changed();
  announce("All pictures removed");
  find("pick").focus();
});

find("opacity").addEventListener("input", () => {
  const value = Number(find("opacity").value);
  find("opacity-text").textContent = `${value} %`;
  document.documentElement.style.setProperty("--map-opacity", String(value / 100));
});

find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  find("key-form").hidden = true;
  const given = find("key").value;
  find("key").value = "";
  useKey(given);
});

connection.addEventListener("locked", () => {
  if (!find("key-form").hidden) return;
  find("key-form").hidden = false;
  find("key-help").textContent = hasKey()
    ? "The service does not know the key that it was given. Try another one."
    : "It is kept in this tab until you close it.";
  find("key").focus();
});

function state(kind, text) {
  find("state").dataset.state = kind;
  if (find("state-text").textContent !== text) find("state-text").textContent = text;
}

connection.addEventListener("gone", () => {
  find("gone").hidden = false;
  state("gone", "No answer");
  announce(find("gone").textContent);
});
connection.addEventListener("back", () => {
  find("gone").hidden = true;
  announce("The server is back");
});

async function followModels() {
  for (;;) {
    let pause = LOOK_AT_MODELS_MS;
    try {
      const { models: found } = await (await ask("models")).json();
      if (models.take(found)) showAll();
      const ready = models.all.filter((model) => model.state === "ready").length;
      if (ready) state("ready", ready === 1 ? "1 model ready" : `${ready} models ready`);
      else state("loading", models.areLoading ? "Models are loading" : "No model is ready");
      if (!ready || models.areLoading) pause = WHILE_LOADING_MS;
    } catch (error) {
      if (error instanceof Problem) pause = WHILE_LOADING_MS;
      else if (error instanceof Unreachable) await reachable().then(() => (pause = WHILE_LOADING_MS));
      else throw error;
    }
    await sleep(pause);
  }
}

followModels();
showFigures();
