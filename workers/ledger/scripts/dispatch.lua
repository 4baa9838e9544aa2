-- Hand out the steps that may start. The reaper calls it for some active runs, in case an earlier move did not.
if is_live(run_field('state')) then close_when_done() end
return dispatch()
