// Gradio builds a page by and by, in no order that one can rest on. Calls back once, as soon as an element is there.
export function whenThere(selector, callback, within = document) {
  const found = within.querySelector(selector);
  if (found) return callback(found);
  const built = new MutationObserver(() => {
    const found = within.querySelector(selector);
    if (!found) return;
    built.disconnect();
    callback(found);
  });
  built.observe(within, {childList: true, subtree: true});
}
