-- How window_state is laid out. A function that knows another layout leaves the table alone: it must
-- not add to what it cannot read, also while versions overlap in a rollout.
CREATE TABLE public.window_state_layout (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  integer NOT NULL
);
INSERT INTO public.window_state_layout (version) VALUES (1);
