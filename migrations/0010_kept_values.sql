-- How many values a stream has kept of a reason in this minute is asked without reading one.
ALTER TABLE public.rejected_records ADD COLUMN keeps_value boolean;
COMMENT ON COLUMN public.rejected_records.keeps_value IS 'whether value has what there was; null in rows of before';
CREATE INDEX rejected_records_with_values ON public.rejected_records (stream, reason, rejected_at) WHERE keeps_value;
