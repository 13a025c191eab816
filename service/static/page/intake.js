/** How pictures get here: dropped anywhere on the page, pasted, chosen, or photographed. */

import { find } from "./dom.js";
import { BASE } from "./service.js";

/** @param {function(File[]): void} onFiles */
export function takePictures(onFiles) {
  const take = (files) => {
    if (files.length) onFiles(named(files));
  };
  for (const [button, input] of [
    ["pick", "files"],
    ["photograph", "camera"],
  ]) {
    find(button).addEventListener("click", () => find(input).click());
    find(input).addEventListener("change", () => {
      take([...find(input).files]);
      find(input).value = ""; // the same file may be chosen again
    });
  }
  find("sample").addEventListener("click", async () => {
    const response = await fetch(new URL("static/page/sample.jpg", BASE)).catch(() => null);
    if (response?.ok) take([new File([await response.blob()], "sample.jpg", { type: "image/jpeg" })]);
  });
  document.addEventListener("paste", (event) => {
    if (event.target.matches?.("input")) return; // a key
    take([...event.clipboardData.files]);
  });
  let inside = 0; // dragenter and dragleave come for every element on the way
  const dragged = (event, now) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    inside = now;
    document.body.toggleAttribute("data-dragged", inside > 0);
  };
  document.addEventListener("dragenter", (event) => dragged(event, inside + 1));
  document.addEventListener("dragover", (event) => dragged(event, inside));
  document.addEventListener("dragleave", (event) => dragged(event, inside - 1));
  document.addEventListener("drop", (event) => {
    dragged(event, 0);
    take([...(event.dataTransfer?.files ?? [])]);
  });
}

/** What is pasted has no name of its own. */
function named(files) {
  return files.map((file) => (file.name ? file : new File([file], "picture", { type: file.type })));
}
