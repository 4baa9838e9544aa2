{{ config(materialized='incremental', unique_key='id', incremental_strategy='merge') }}
select 1 as id, 10 as amount
{% if is_incremental() %}union all select 1, 20{% endif %}
