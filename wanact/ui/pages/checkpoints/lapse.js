import {withoutLateWord} from '../../web/cancelled.js';
import {connect} from '../../web/events.js';

// Carries a time-lapse between the list of checkpoints, which shows it, and the server: shows nothing itself.
export function mount({element, props, trigger, watch}) {
  const {announce, hear} = connect(element);
  const valid = withoutLateWord();
  const isWorking = () => ['queued', 'working'].includes(props.value?.status);
  const tell = () => announce('lapse', {state: valid(props.value || {status: 'idle'})});
  hear('lapse-fly', ({run}) => {
    if (isWorking()) return;
    props.value = {status: 'queued', run, message: 'Waiting for the model…', progress: 0};
    tell();
    trigger('fly');
  });
  hear('lapse-cancel', () => trigger('cancel'));
  hear('lapse-failed', () => {
    if (!isWorking()) return;
    const message = 'The steps were not flown; nothing else has changed. Try again.';
    props.value = {status: 'failed', run: props.value.run, message};
    tell();
  });
  watch('value', tell);
}
