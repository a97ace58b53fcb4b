// Times: relative ones grow older while a page is open, exact ones are shown in the reader's own zone.
const RELATIVE = new Intl.RelativeTimeFormat("en", { numeric: "always" });
const EXACT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const TO_THE_SECOND = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const UNITS = [[90, 1, "second"], [90 * 60, 60, "minute"], [36 * 3600, 3600, "hour"], [Infinity, 86_400, "day"]];

function ago(moment) {
  const seconds = (moment - Date.now()) / 1000;
  if (Math.abs(seconds) < 5) return "just now";
  const [, length, unit] = UNITS.find(([limit]) => Math.abs(seconds) < limit);
  return RELATIVE.format(Math.round(seconds / length), unit);
}

/** Say every <time> below `root` anew, but those that auditors compare, which stay UTC. Those with a title are relative: it says the exact time. */
export function sayTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]:not([data-utc])")) {
    const moment = Date.parse(time.dateTime);
    if (Number.isNaN(moment)) continue;
    const said = time.title ? ago(moment) : ("minute" in time.dataset ? EXACT : TO_THE_SECOND).format(moment);
    if (time.textContent !== said) time.textContent = said;
    if (time.title) time.title = EXACT.format(moment);
  }
}
