import {linkTo, sharedAddress} from '../../web/address.js';
import {connect} from '../../web/events.js';

export function mount({element, props, watch}) {
  const {hear} = connect(element);
  const panel = element.querySelector('.shared');
  const find = selector => panel.querySelector(selector);
  const link = find('.link');

  function say(text) {
    panel.hidden = !text;
    find('.what').textContent = text;
  }
  hear('live-sharing', () => {
    panel.classList.remove('ready');
    say('Sharing the flight…');
  });
  hear('live-airborne', () => say(''));
  watch('value', () => {
    const value = props.value || {};
    if (value.problem) return say(value.problem);
    if (!value.id) return;
    link.value = linkTo(value.id);
    find('.poster').src = find('.poster-file').href = sharedAddress(value.id, 'poster.jpg').href;
    find('[data-do=send]').hidden = !navigator.share;
    panel.classList.add('ready');
    say(value.remark ? `Shared: ${value.remark}.` : 'Shared.');
  });
  panel.addEventListener('click', async event => {
    const what = event.target.closest('[data-do]')?.dataset.do;
    if (what === 'copy') {
      link.select();
      try {
        await navigator.clipboard.writeText(link.value);
        say('Link copied.');
      } catch {
        say('Copy the link that is marked.'); // without https there is no clipboard
      }
    } else if (what === 'send')
      navigator.share({title: 'A flight inside a video model', url: link.value}).catch(() => {});
  });
}
