-- Closers are woken when a partition's event time passes a time at which windows may close, and need not wait for their
-- schedule: NOTIFY exagg_closable, at the commit of the batch that did it. Whether something can be closed they find out.
CREATE FUNCTION public.exagg_wake() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('exagg_closable', '')
    FROM public.streams s
    WHERE s.stream = NEW.stream
      AND (NEW.max_event_time_us / 1000000 - s.allowed_lateness_seconds) / s.slide_seconds
          > (OLD.max_event_time_us / 1000000 - s.allowed_lateness_seconds) / s.slide_seconds;
    RETURN NULL;
END
$$;
CREATE TRIGGER exagg_wake AFTER UPDATE OF max_event_time_us ON public.progress FOR EACH ROW
WHEN (NEW.max_event_time_us / 1000000 > OLD.max_event_time_us / 1000000)
EXECUTE FUNCTION public.exagg_wake();
