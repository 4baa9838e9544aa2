{{ config(materialized='table') }}
{{ wait() }}
select id from {{ ref('first') }}
