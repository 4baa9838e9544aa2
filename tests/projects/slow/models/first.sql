{{ config(materialized='table') }}
{{ wait() }}
select 1 as id
