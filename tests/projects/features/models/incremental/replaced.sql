{{ config(materialized='incremental', incremental_strategy='delete+insert', unique_key='order_id') }}
select order_id, amount, status, '{{ is_incremental() }}' as added_later from {{ ref('stg_orders') }}
{% if is_incremental() %} where order_id >= 5 {% endif %}
