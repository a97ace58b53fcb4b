// Part of a page that takes longer than the rest: it names where it is (`data-part`), and is put in place when it comes. What
// stood there before, a link to the same, stays where it does not come.
export async function fetchPart(root) {
  try {
    const answer = await fetch(root.dataset.part, { headers: { accept: "text/html" }, redirect: "error" });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const part = page.getElementById("part");
    if (!part) return;
    root.querySelector(".waiting").replaceWith(...document.adoptNode(part).childNodes);
    root.dataset.come = "yes";
  } catch {
    // the server is away: the link stays
  }
}
