-- The partitions that the topic had when the stream first saw it. Those beyond were added later, and are read from
-- their first offset, whatever the group's offsets say.
ALTER TABLE public.progress ADD COLUMN first_partition_count integer;
UPDATE public.progress AS p SET first_partition_count = seen.partitions
FROM (SELECT stream, topic_id, max(partition) + 1 AS partitions FROM public.progress GROUP BY stream, topic_id) AS seen
WHERE (p.stream, p.topic_id) = (seen.stream, seen.topic_id);
