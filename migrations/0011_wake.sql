-- Closers are woken when a partition's event time passes a time at which windows may close, and need not wait for their
-- schedule: NOTIFY exagg_closable, at the commit of the batch that did it. Whether something can be closed they find out.
-- Of a past that is caught up with, nobody is told: commits that notify wait for each other, and the schedule will do.
CREATE FUNCTION public.exagg_wake() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    before_s bigint := OLD.max_event_time_us / 1000000;
    now_s bigint := NEW.max_event_time_us / 1000000;
BEGIN
    PERFORM pg_notify('exagg_closable', '')
    FROM public.streams s
    WHERE s.stream = NEW.stream
      AND (now_s - s.allowed_lateness_seconds) / s.slide_seconds > (before_s - s.allowed_lateness_seconds) / s.slide_seconds
      AND now_s > extract(epoch FROM clock_timestamp()) - s.allowed_lateness_seconds - 600;
    RETURN NULL;
END
$$;
CREATE TRIGGER exagg_wake AFTER UPDATE OF max_event_time_us ON public.progress FOR EACH ROW
WHEN (NEW.max_event_time_us / 1000000 > OLD.max_event_time_us / 1000000)
EXECUTE FUNCTION public.exagg_wake();
