// A page that is asked for again: its live regions, those with `data-live` and an id, are put in place of the old ones. A
// region with the focus waits, so that no button is taken from under anybody's finger, until nothing more will come.
import { sayTimes } from "./times.js";

/** Whether `page` still changes by itself; undefined where it could not be had. */
export async function lookAgain(path) {
  const spoken = document.getElementById("spoken");
  try {
    const answer = await fetch(path, { headers: { accept: "text/html", "x-cloudpush-live": "1" }, redirect: "error" });
    if (!answer.ok) return undefined;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const going = page.querySelector("[data-events], [data-pending]") !== null;
    for (const fresh of page.querySelectorAll("[data-live]")) {
      const old = document.getElementById(fresh.id);
      if (!old) continue;
      const focused = old.contains(document.activeElement);
      if (focused && going) continue;
      const was = old.querySelector("[data-state]")?.dataset.state;
      old.replaceChildren(...document.adoptNode(fresh).childNodes);
      if (focused) document.querySelector("main").focus();
      const now = old.querySelector("[data-state]");
      if (now && now.dataset.state !== was) spoken.textContent = now.textContent;
    }
    document.title = page.title;
    sayTimes(document);
    return going;
  } catch {
    return undefined; // the server is away, or the session has ended: what is on the page stays
  }
}
