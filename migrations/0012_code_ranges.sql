-- What is packed is in blocks of sorted codes, which say between which codes they are: so one code, or the first page of a
-- window, is found without unpacking all of it. Null in rows of before, which end with their windows.
ALTER TABLE public.window_batches
    ADD COLUMN first_code varchar COLLATE "C",
    ADD COLUMN last_code  varchar COLLATE "C";
