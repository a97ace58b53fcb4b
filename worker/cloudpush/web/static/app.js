// What every page gets: times in the reader's own words, forms that are sent once. Nothing here is needed to use a page.
import { sayTimes } from "./times.js";
import { sendOnce } from "./forms.js";
import { followPush } from "./live.js";
import { awaitWorker } from "./pending.js";
import { offerCopies } from "./copy.js";

document.documentElement.classList.add("scripted");
sayTimes(document);
setInterval(() => sayTimes(document), 30_000);
sendOnce(document);
offerCopies(document);

const live = document.querySelector("[data-events]");
if (live) followPush(live);
if (document.querySelector("[data-pending]")) awaitWorker();
