// A page that waits for a worker (`data-pending`) asks for itself again until it waits no more, ever less often.
import { lookAgain } from "./again.js";

const FIRST = 500; // milliseconds
const LONGEST = 15_000;

export function awaitWorker() {
  let pause = FIRST;
  async function look() {
    const going = await lookAgain(location.pathname + location.search);
    pause = Math.min(pause * 1.3, LONGEST);
    if (going !== false) setTimeout(look, pause);
  }
  setTimeout(look, pause);
}
