{{ config(materialized='incremental', incremental_strategy='append') }}
select order_id, amount, '{{ var("region") }}' as region, '{{ is_incremental() }}' as added_later, '{{ should_full_refresh() }}' as full_refresh
from {{ ref('stg_orders') }}
{% if is_incremental() %} where order_id > (select max(order_id) from {{ this }}) {% endif %}
