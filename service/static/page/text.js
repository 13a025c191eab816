/** Numbers and commands as people read them. */

/** A probability (0 to 1) in per cent; never rounded up to certainty or down to nothing. */
export function percent(probability) {
  if (probability > 0 && probability < 0.001) return "< 0.1 %";
  if (probability < 1 && probability > 0.999) return "> 99.9 %";
  return `${(100 * probability).toFixed(1)} %`;
}

/** Milliseconds with three digits, more or less. */
export function milliseconds(value) {
  return `${value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : Math.round(value)} ms`;
}

/** A rate per second. */
export function rate(value) {
  return value < 10 ? value.toFixed(1) : String(Math.round(value));
}

export function bytes(count) {
  if (count < 1000) return `${count} B`;
  return count < 1e6 ? `${Math.round(count / 1e3)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

/** A number with its sign, as in a sum: a minus is a minus, not a hyphen. */
export function signed(value) {
  return `${value < 0 ? "−" : "+"} ${Math.abs(value).toFixed(2)}`;
}

export function decimal(value) {
  return value.toFixed(2).replace("-", "−");
}

/** One word for a POSIX shell. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/**
 * The commands that do what the page did.
 *
 * @param {string[]} addresses the first one's answer is shown; that of others is a picture.
 * @param {{name: string, type: string}} file
 * @param {boolean} withKey whether a key is needed. It is not shown.
 */
export function curl(addresses, file, withKey) {
  const key = withKey ? ' -H "Authorization: Bearer $KEY"' : "";
  const type = ` -H ${quoted(`Content-Type: ${file.type || "application/octet-stream"}`)}`;
  return addresses
    .map(
      (url, i) =>
        `curl --data-binary ${quoted(`@${file.name}`)}${type}${key}${i ? " -o map.png" : ""} \\\n  ${quoted(url)}`,
    )
    .join("\n\n");
}
