{{ config(
    materialized='incremental',
    unique_key='year',
    incremental_strategy='delete+insert',
    pre_hook="insert into {{ target.schema }}.run_log values ('{{ invocation_id }}', 'pre-hook', 0)",
    post_hook="insert into {{ target.schema }}.run_log values ('{{ invocation_id }}', 'post-hook', 0)"
) }}

select year, count(*) as orders, sum(amount) as amount
from {{ ref('stg_orders') }}
where year = {{ var('year') | int }}
group by year
