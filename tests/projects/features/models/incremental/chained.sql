{{ config(materialized='incremental', unique_key='order_id', incremental_strategy='delete+insert') }}
select a.order_id, m.amount, a.added_later from {{ ref('appended') }} a join {{ ref('merged') }} m on m.order_id = a.order_id
{% if is_incremental() %} where a.order_id > 3 {% endif %}
