{{ config(
    materialized='incremental', unique_key='order_id', incremental_strategy='merge',
    on_schema_change=var('on_schema_change', 'sync_all_columns'),
    merge_exclude_columns=['first_seen']
) }}
select order_id, amount, {% if var('with_status', false) %}status, {% endif %}
    '{{ var("region") }}' as first_seen
from {{ ref('stg_orders') }}
