select 999 as parent_id
