// What every page gets: times in the reader's own words, forms that are sent once. Nothing here is needed to use a page.
import { sayTimes } from "./times.js";
import { sendOnce } from "./forms.js";
import { followPush } from "./live.js";
import { awaitWorker } from "./pending.js";
import { offerCopies } from "./copy.js";
import { fetchPart } from "./parts.js";

document.documentElement.classList.add("scripted");
sayTimes(document);
setInterval(() => sayTimes(document), 30_000);
sendOnce(document);
offerCopies(document);

const live = document.querySelector("[data-events]");
if (live) followPush(live);
for (const part of document.querySelectorAll("[data-part]")) fetchPart(part);
if (document.querySelector("[data-pending]")) awaitWorker();
