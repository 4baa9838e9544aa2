{{ config(
    materialized='incremental', incremental_strategy='microbatch', event_time='ordered_on',
    unique_key=('order_id' if target.type == 'postgres' else none),
    batch_size=var('batch_size', 'year'), begin='2025-01-01', lookback=1, schema='facts'
) }}
select order_id, ordered_on, amount, '{{ model.batch.id if model.batch else "" }}' as batch from {{ ref('stg_orders') }}
