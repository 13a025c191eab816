/** Elements without markup: text is always text, whatever a file name or a label holds. */

/**
 * @param {string} tag
 * @param {Object} properties of the element; those with a dash and `role` are attributes.
 * @param {...(Node|string)} children
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

export const find = (id) => document.getElementById(id);

/** Says something to people who cannot see it. */
export function announce(text) {
  find("announcer").textContent = text;
}

/** Copies a text; also where the clipboard is closed to pages, as over plain HTTP. Returns whether it did. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = element("textarea", { value: text, className: "unseen" });
    const focused = document.activeElement;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return copied;
  }
}
