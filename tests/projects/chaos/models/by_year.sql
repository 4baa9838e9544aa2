{{ config(
    materialized='incremental', unique_key='year', incremental_strategy='delete+insert',
    post_hook="insert into " ~ target.schema ~ ".run_log values ('{{ invocation_id }}', 'by_year', 0)"
) }}
select year, count(*) as orders, sum(amount) as amount from {{ ref('orders') }}
where year = {{ var('year') | int }}
group by year
