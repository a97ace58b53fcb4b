// A push while it runs. The server's events say how far it is; when something else on the page has changed, the page is asked
// for again and its live regions are put in place. Without any of this the page has a link that loads it again.
import { lookAgain } from "./again.js";

const STEP = 10; // percent between two announcements to screen readers

export function followPush(root) {
  const spoken = document.getElementById("spoken");
  let announced = -1;
  let furthest = 0;
  let asking = false;

  function show(moment) {
    const bar = root.querySelector("progress");
    const text = root.querySelector("[data-text]");
    // Broker and database tell the same thing at different speeds: never go back.
    const percent = moment.percent === null ? null : Math.max(furthest, moment.percent);
    if (percent !== null) furthest = percent;
    if (bar && percent !== null) bar.value = percent;
    if (text && moment.text) text.textContent = moment.text;
    if (percent !== null && Math.floor(percent / STEP) > announced) {
      announced = Math.floor(percent / STEP);
      spoken.textContent = `${percent} percent`;
      again();
    }
  }

  async function again(ended = false) {
    if (asking && !ended) return;
    asking = true;
    await lookAgain(location.pathname);
    asking = false;
  }

  const source = new EventSource(root.dataset.events);
  source.addEventListener("progress", (event) => show(JSON.parse(event.data)));
  source.addEventListener("changed", (event) => { show(JSON.parse(event.data)); again(); });
  source.addEventListener("verdict", () => { source.close(); again(true); });
  addEventListener("pagehide", () => source.close());
}
