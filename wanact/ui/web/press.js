// A button's press that comes while its last answer is not complete is kept until it is ("always_last"): a GIF may
// still be made of what is shown already. While the work itself is going on a press is none.
export function ignorePresses(selector, isBusy) {
  document.addEventListener(
    'click',
    event => {
      if (event.target.closest(selector) && isBusy()) event.stopImmediatePropagation();
    },
    true,
  );
}
