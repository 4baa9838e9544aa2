{{ config(
    materialized='incremental', incremental_strategy='microbatch', event_time='day',
    begin='2024-01-01', batch_size='year', concurrent_batches=false,
    unique_key=('day' if target.type == 'postgres' else none)
) }}
select day, cast(label as integer) as number
from {{ ref('days') }}
